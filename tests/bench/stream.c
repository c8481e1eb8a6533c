// stream: one process writes, another reads, as fast as they can.
//
//   family=tcp|tcp6|unix size=65536 (of a write) seconds=1 server_cpus=0 (the reader) client_cpus=1 (the writer)
//
//   -> {"gb_per_s", "cpu_s_per_gb": of both sides, "writer_cpu_s_per_gb", "reader_cpu_s_per_gb", "bytes"}
//
// The reader asks for 64 KiB, or for the size of a write if that is more. What is sent before the measurement begins
// (WARMUP bytes, or 32 writes) is where a connection can be upgraded.

#include <err.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/bench/bench.h"

#define WARMUP   (4u << 20)
#define READ_MIN (64u << 10)

static size_t size;
static uint64_t warmup_bytes; // a multiple of size
static double seconds;
static struct bench_listener listener;

static struct result {
    uint64_t bytes, ns; // as seen by the reader, after the warm-up
    uint64_t writer_cpu_ns, reader_cpu_ns;
} * result;

static void *buffer_new(size_t bytes)
{
    void *buffer = calloc(1, bytes);
    if (!buffer)
        err(1, "calloc");
    return buffer;
}

static void write_whole(int fd, const char *data)
{
    for (size_t done = 0; done < size;) {
        ssize_t n = send(fd, data + done, size - done, MSG_NOSIGNAL);
        if (n < 0 && errno != EINTR)
            err(1, "send");
        if (n > 0)
            done += (size_t)n;
    }
}

static void writer(void *context)
{
    int fd = bench_connect(&listener);
    bench_nodelay(fd);
    char *data = buffer_new(size);
    for (uint64_t sent = 0; sent < warmup_bytes; sent += size)
        write_whole(fd, data);

    uint64_t cpu = bench_cpu_ns(), stop = bench_now() + (uint64_t)(seconds * 1e9);
    unsigned between_looks = size >= 65536 ? 1 : (unsigned)(65536 / size); // writes between looks at the clock
    do {
        for (unsigned i = 0; i < between_looks; i++)
            write_whole(fd, data);
    } while (bench_now() < stop);
    result->writer_cpu_ns = bench_cpu_ns() - cpu;
    shutdown(fd, SHUT_WR);
    char byte;
    if (read(fd, &byte, 1) != 0) // the reader closes when it has everything
        errx(1, "the reader ended early");
    free(data);
}

static void reader(void *context)
{
    int fd = bench_accept(&listener);
    size_t room = size < READ_MIN ? READ_MIN : size;
    char *data = buffer_new(room);
    uint64_t got = 0, begin = 0, begin_bytes = 0, cpu = 0;
    for (ssize_t n; (n = read(fd, data, room)) != 0;) {
        if (n < 0 && errno != EINTR)
            err(1, "read");
        got += n > 0 ? (uint64_t)n : 0;
        if (!begin && got >= warmup_bytes) {
            begin = bench_now();
            begin_bytes = got;
            cpu = bench_cpu_ns();
        }
    }
    if (!begin || got == begin_bytes)
        errx(1, "the writer ended early");
    result->ns = bench_now() - begin;
    result->bytes = got - begin_bytes;
    result->reader_cpu_ns = bench_cpu_ns() - cpu;
    free(data);
}

int main(int argc, char **argv)
{
    bench_arguments(argc, argv, "family size seconds server_cpus client_cpus");
    size = (size_t)bench_number("size", 65536);
    seconds = bench_number("seconds", 1);
    if (size == 0)
        errx(2, "expected a size of at least 1");
    warmup_bytes = size * 32 > WARMUP ? size * 32 : WARMUP - WARMUP % size;
    result = bench_share(sizeof *result);
    bench_listen(&listener, (enum bench_family)bench_choice("family", BENCH_FAMILIES));
    pid_t in = bench_start(reader, NULL, bench_text("server_cpus", "0"));
    pid_t out = bench_start(writer, NULL, bench_text("client_cpus", "1"));
    close(listener.fd);
    bench_join(out);
    bench_join(in);

    double gb = (double)result->bytes / 1e9;
    double in_cpu = (double)result->reader_cpu_ns / 1e9 / gb, out_cpu = (double)result->writer_cpu_ns / 1e9 / gb;
    printf("{\"gb_per_s\":%.5f,\"cpu_s_per_gb\":%.5f,\"writer_cpu_s_per_gb\":%.5f,\"reader_cpu_s_per_gb\":%.5f,"
           "\"bytes\":%llu}\n",
           gb / ((double)result->ns / 1e9), in_cpu + out_cpu, out_cpu, in_cpu, (unsigned long long)result->bytes);
    return 0;
}
