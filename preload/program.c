#include "preload/program.h"

#include <dlfcn.h>
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "core/sys.h"

static struct {
    char name[NAME_MAX + 1];  // of the library, the last component
    char agent_dir[PATH_MAX]; // RDMA_AGENT_DIR, or empty
} own;

static const char *last_component(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

void program_init(void)
{
    Dl_info info;
    const char *dir = getenv("RDMA_AGENT_DIR");
    const char *name = dladdr(&own, &info) && info.dli_fname ? last_component(info.dli_fname) : "librdma-preload.so";
    strncpy(own.name, name, sizeof own.name - 1);
    strncpy(own.agent_dir, dir ? dir : "", sizeof own.agent_dir - 1);
}

// --- the environment ---

static const char *value_of(char *const environment[], const char *name)
{
    size_t size = strlen(name);
    for (; environment && *environment; environment++) {
        if (strncmp(*environment, name, size) == 0 && (*environment)[size] == '=')
            return *environment + size + 1;
    }
    return "";
}

// A name in LD_PRELOAD or /etc/ld.so.preload ends at white space or a colon.
static bool names_library(const char *list)
{
    size_t wanted = strlen(own.name);
    while (*list) {
        size_t size = strcspn(list, ": \t\n");
        if (size >= wanted && strncmp(list + size - wanted, own.name, wanted) == 0 &&
            (size == wanted || list[size - wanted - 1] == '/'))
            return true;
        list += size;
        list += strspn(list, ": \t\n");
    }
    return false;
}

static bool named_for_all_programs(void)
{
    char text[4096];
    int fd = (int)sys_call(SYS_openat, AT_FDCWD, "/etc/ld.so.preload", O_RDONLY | O_CLOEXEC);
    long n = fd < 0 ? 0 : sys_read(fd, text, sizeof text - 1);
    if (fd >= 0)
        sys_close(fd);
    text[n > 0 ? n : 0] = '\0';
    return names_library(text);
}

static bool environment_loads_library(char *const environment[])
{
    const char *disabled = value_of(environment, "RDMA_AGENT_DISABLE");
    if ((*disabled && strcmp(disabled, "0") != 0) ||
        strcmp(value_of(environment, "RDMA_AGENT_DIR"), own.agent_dir) != 0)
        return false;
    return names_library(value_of(environment, "LD_PRELOAD")) || named_for_all_programs();
}

// --- the file ---

// Programs that gain privileges are not given LD_PRELOAD. Where it is not sure, they count as such.
static bool gains_privileges(int fd, const struct stat *file)
{
    uint32_t ruid = (uint32_t)sys_call(SYS_getuid), rgid = (uint32_t)sys_call(SYS_getgid);
    uint32_t euid = file->st_mode & S_ISUID ? file->st_uid : (uint32_t)sys_call(SYS_geteuid);
    uint32_t egid = file->st_mode & S_ISGID ? file->st_gid : (uint32_t)sys_call(SYS_getegid);
    if (ruid != euid || rgid != egid)
        return true;
    return ruid != 0 && sys_call(SYS_fgetxattr, fd, "security.capability", NULL, 0) > 0;
}

static bool is_of_this_machine(const Elf64_Ehdr *head)
{
#if defined(__x86_64__)
    return head->e_ident[EI_CLASS] == ELFCLASS64 && head->e_machine == EM_X86_64;
#else
    return head->e_ident[EI_CLASS] == ELFCLASS64 && head->e_machine == EM_AARCH64;
#endif
}

// Who loads libraries: of a static program, nobody does; and another libc's loader has no use for this one.
static bool has_usual_loader(int fd, const Elf64_Ehdr *head)
{
    for (unsigned i = 0; i < head->e_phnum && i < 64; i++) {
        Elf64_Phdr part;
        char loader[PATH_MAX];
        if (sys_call(SYS_pread64, fd, &part, sizeof part, head->e_phoff + (uint64_t)i * sizeof part) != sizeof part)
            return false;
        if (part.p_type != PT_INTERP)
            continue;
        long n = sys_call(SYS_pread64, fd, loader, sizeof loader - 1, part.p_offset);
        loader[n > 0 ? n : 0] = '\0';
        return *loader && !strstr(loader, "musl");
    }
    return false;
}

// "#!interpreter argument". False if it is none, or too long.
static bool read_interpreter(const char *head, size_t size, char interpreter[static NAME_MAX])
{
    const char *from = head + 2, *end = memchr(head, '\n', size);
    if (size < 3 || head[0] != '#' || head[1] != '!' || !end)
        return false;
    from += strspn(from, " \t");
    size_t length = strcspn(from, " \t\n");
    if (length == 0 || length >= NAME_MAX)
        return false;
    memcpy(interpreter, from, length);
    interpreter[length] = '\0';
    return true;
}

enum outcome { LOADS, DOES_NOT, ASK_INTERPRETER };

static enum outcome look_at_file(int fd, char interpreter[static NAME_MAX])
{
    struct stat file;
    union {
        Elf64_Ehdr elf;
        char text[NAME_MAX + 1];
    } head = {.text = ""};
    long n = sys_call(SYS_pread64, fd, &head, sizeof head - 1, 0);
    if (n < (long)sizeof head.elf && read_interpreter(head.text, n > 0 ? (size_t)n : 0, interpreter))
        return ASK_INTERPRETER;
    if (n < (long)sizeof head.elf || fstat(fd, &file))
        return DOES_NOT;
    if (memcmp(head.text, ELFMAG, SELFMAG) != 0)
        return read_interpreter(head.text, (size_t)n, interpreter) ? ASK_INTERPRETER : DOES_NOT;
    bool loads = is_of_this_machine(&head.elf) && !gains_privileges(fd, &file) && has_usual_loader(fd, &head.elf);
    return loads ? LOADS : DOES_NOT;
}

// Interpreters may be scripts, to the kernel's own depth.
#define INTERPRETERS_MOST 5

bool program_loads_library(const char *path, char *const environment[])
{
    char interpreter[NAME_MAX];
    if (!environment_loads_library(environment))
        return false;
    for (int i = 0; i < INTERPRETERS_MOST; i++) {
        int fd = (int)sys_call(SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
        if (fd < 0)
            return fd == -ENOENT || fd == -ENOTDIR;
        enum outcome outcome = look_at_file(fd, interpreter);
        sys_close(fd);
        if (outcome != ASK_INTERPRETER)
            return outcome == LOADS;
        path = interpreter;
    }
    return false;
}

bool program_found_loads_library(const char *file, char *const environment[])
{
    const char *dirs = getenv("PATH");
    if (strchr(file, '/'))
        return program_loads_library(file, environment);
    for (dirs = dirs ? dirs : "/bin:/usr/bin"; dirs; dirs = strchr(dirs, ':') ? strchr(dirs, ':') + 1 : NULL) {
        char path[PATH_MAX];
        size_t size = strcspn(dirs, ":"), name = strlen(file);
        if (size + 1 + name >= sizeof path)
            continue;
        memcpy(path, dirs, size);
        path[size] = '/';
        memcpy(path + size + (size != 0), file, name + 1); // an empty one is the current directory
        if (sys_call(SYS_faccessat, AT_FDCWD, path, 1 /* X_OK */) == 0)
            return program_loads_library(path, environment);
    }
    return true;
}
