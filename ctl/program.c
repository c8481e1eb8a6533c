// Reads ELF files and "#!" lines with pread, every offset checked against what the file can hold.
#include "ctl/program.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/xattr.h>
#include <unistd.h>

#define SCRIPT_LINE_MAX   256 // what the kernel reads of a "#!" line
#define SECTION_NAMES_MAX (1u << 20)

#if defined(__x86_64__)
#define OUR_MACHINE EM_X86_64
#elif defined(__aarch64__)
#define OUR_MACHINE EM_AARCH64
#else
#error "this processor is not supported: x86_64 and aarch64 are"
#endif

#define OUR_DATA (__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__ ? ELFDATA2LSB : ELFDATA2MSB)

static int try_path(const char *path)
{
    struct stat file;
    if (stat(path, &file) < 0)
        return -errno;
    if (!S_ISREG(file.st_mode) || access(path, X_OK) < 0)
        return -EACCES;
    return 0;
}

static int search_path(const char *name, char path[static PATH_MAX])
{
    const char *list = getenv("PATH");
    if (!list)
        list = "/bin:/usr/bin";
    int result = -ENOENT;
    for (;;) {
        size_t length = strcspn(list, ":");
        // An empty entry means the current directory.
        int size = snprintf(path, PATH_MAX, "%.*s%s%s", (int)length, list, length > 0 ? "/" : "./", name);
        int error = size < PATH_MAX ? try_path(path) : -ENAMETOOLONG;
        if (error == 0)
            return 0;
        if (error == -EACCES)
            result = -EACCES;
        if (list[length] == '\0')
            return result;
        list += length + 1;
    }
}

int program_find(const char *name, char path[static PATH_MAX])
{
    if (*name == '\0')
        return -ENOENT;
    if (!strchr(name, '/'))
        return search_path(name, path);
    if (snprintf(path, PATH_MAX, "%s", name) >= PATH_MAX)
        return -ENAMETOOLONG;
    return try_path(path);
}

// Reads exactly `size` bytes. Returns 0, -errno, or -ENOEXEC if the file ends before.
static int read_at(int fd, void *out, size_t size, uint64_t offset)
{
    if (offset > INT64_MAX - size)
        return -ENOEXEC;
    ssize_t got = pread(fd, out, size, (off_t)offset);
    if (got < 0)
        return -errno;
    return (size_t)got == size ? 0 : -ENOEXEC;
}

static int read_interpreter(int fd, const Elf64_Phdr *segment, struct program *program)
{
    if (segment->p_filesz == 0 || segment->p_filesz >= sizeof(program->interpreter))
        return -ENOEXEC;
    int error = read_at(fd, program->interpreter, segment->p_filesz, segment->p_offset);
    program->interpreter[segment->p_filesz] = '\0';
    return error;
}

static int read_segments(int fd, const Elf64_Ehdr *header, struct program *program)
{
    if (header->e_phentsize != sizeof(Elf64_Phdr))
        return -ENOEXEC;
    for (unsigned i = 0; i < header->e_phnum; i++) {
        Elf64_Phdr segment;
        int error = read_at(fd, &segment, sizeof(segment), header->e_phoff + i * sizeof(segment));
        if (error == 0 && segment.p_type == PT_INTERP)
            error = read_interpreter(fd, &segment, program);
        if (error < 0)
            return error;
    }
    return 0;
}

static bool go_section(const char *name)
{
    return strcmp(name, ".note.go.buildid") == 0 || strcmp(name, ".go.buildinfo") == 0;
}

static int find_go_section(int fd, const Elf64_Ehdr *header, const char *names, size_t size)
{
    for (unsigned i = 0; i < header->e_shnum; i++) {
        Elf64_Shdr section;
        int error = read_at(fd, &section, sizeof(section), header->e_shoff + i * sizeof(section));
        if (error < 0)
            return error;
        if (section.sh_name < size && go_section(names + section.sh_name))
            return 1;
    }
    return 0;
}

// Section headers may have been stripped, or be nonsense: no program needs them to run. Then nothing is known, and
// this is not an error.
static bool is_go(int fd, const Elf64_Ehdr *header)
{
    Elf64_Shdr section;
    if (header->e_shentsize != sizeof(section) || header->e_shstrndx >= header->e_shnum)
        return false;
    if (read_at(fd, &section, sizeof(section), header->e_shoff + header->e_shstrndx * sizeof(section)) < 0)
        return false;
    if (section.sh_size == 0 || section.sh_size > SECTION_NAMES_MAX)
        return false;
    char *names = malloc(section.sh_size + 1);
    bool found = false;
    if (names && read_at(fd, names, section.sh_size, section.sh_offset) == 0) {
        names[section.sh_size] = '\0';
        found = find_go_section(fd, header, names, section.sh_size) > 0;
    }
    free(names);
    return found;
}

static bool glibc_loader(const char *interpreter)
{
    const char *slash = strrchr(interpreter, '/');
    return strncmp(slash ? slash + 1 : interpreter, "ld-linux", strlen("ld-linux")) == 0;
}

static int read_elf(int fd, struct program *program)
{
    Elf64_Ehdr header;
    int error = read_at(fd, &header, sizeof(header), 0);
    if (error < 0)
        return error;
    program->kind = PROGRAM_ELF;
    if (header.e_ident[EI_CLASS] != ELFCLASS64)
        program->obstacles |= PROGRAM_BITS;
    else if (header.e_ident[EI_DATA] != OUR_DATA || header.e_machine != OUR_MACHINE)
        program->obstacles |= PROGRAM_MACHINE;
    if (program->obstacles != 0)
        return 0; // the rest of the file has another layout
    error = read_segments(fd, &header, program);
    if (error < 0)
        return error;
    if (is_go(fd, &header))
        program->obstacles |= PROGRAM_GO; // static or not is all the same then
    else if (*program->interpreter == '\0')
        program->obstacles |= PROGRAM_STATIC;
    else if (!glibc_loader(program->interpreter))
        program->obstacles |= PROGRAM_LOADER;
    return 0;
}

static const char *skip_blanks(const char *text)
{
    return text + strspn(text, " \t");
}

static int read_script(const char *line, struct program *program)
{
    program->kind = PROGRAM_SCRIPT;
    line = skip_blanks(line + 2);
    size_t length = strcspn(line, " \t");
    snprintf(program->interpreter, sizeof(program->interpreter), "%.*s", (int)length, line);
    snprintf(program->argument, sizeof(program->argument), "%s", skip_blanks(line + length));
    return length > 0 ? 0 : -ENOEXEC;
}

static int read_file(int fd, struct program *program)
{
    char head[SCRIPT_LINE_MAX + 1] = "";
    ssize_t got = pread(fd, head, SCRIPT_LINE_MAX, 0);
    if (got < 0)
        return -errno;
    if (got >= SELFMAG && memcmp(head, ELFMAG, SELFMAG) == 0)
        return read_elf(fd, program);
    head[strcspn(head, "\n")] = '\0';
    return strncmp(head, "#!", 2) == 0 ? read_script(head, program) : 0;
}

static int read_privileges(int fd, struct program *program)
{
    struct stat file;
    if (fstat(fd, &file) < 0)
        return -errno;
    if (!S_ISREG(file.st_mode))
        return -EACCES;
    program->mode = file.st_mode;
    program->owner = file.st_uid;
    program->group = file.st_gid;
    // Set-group-ID without group execution is an old mark for locking, not a privilege.
    if ((file.st_mode & S_ISUID) || (file.st_mode & (S_ISGID | S_IXGRP)) == (S_ISGID | S_IXGRP))
        program->obstacles |= PROGRAM_SET_ID;
    if (fgetxattr(fd, "security.capability", NULL, 0) > 0)
        program->obstacles |= PROGRAM_CAPABLE;
    return 0;
}

int program_inspect(const char *path, struct program *program)
{
    *program = (struct program){0};
    snprintf(program->path, sizeof(program->path), "%s", path);
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return -errno;
    int error = read_file(fd, program);
    // The kernel heeds these marks on binaries only.
    if (error == 0 && program->kind != PROGRAM_SCRIPT)
        error = read_privileges(fd, program);
    close(fd);
    return error;
}

// What `env` would run: the first word that is neither an option nor NAME=VALUE.
static int behind_env(const char *words, char name[static PATH_MAX])
{
    for (words = skip_blanks(words); *words; words = skip_blanks(words)) {
        size_t length = strcspn(words, " \t");
        if (words[0] != '-' && !memchr(words, '=', length)) {
            snprintf(name, PATH_MAX, "%.*s", (int)length, words);
            return 0;
        }
        words += length;
    }
    return -ENOENT;
}

int program_next(const struct program *program, char path[static PATH_MAX])
{
    if (program->kind != PROGRAM_SCRIPT)
        return 0;
    const char *slash = strrchr(program->interpreter, '/');
    char name[PATH_MAX];
    snprintf(name, sizeof(name), "%s", program->interpreter);
    if (slash && strcmp(slash + 1, "env") == 0)
        behind_env(program->argument, name);
    int error = program_find(name, path);
    if (error < 0)
        snprintf(path, PATH_MAX, "%s", name);
    return error < 0 ? error : 1;
}

static bool privileges_void(const struct program *program)
{
    struct statvfs filesystem;
    if (prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1)
        return true;
    return statvfs(program->path, &filesystem) == 0 && (filesystem.f_flag & ST_NOSUID);
}

// The loader ignores LD_PRELOAD when the kernel says so, which it does when effective ids change, and when anyone but
// root gains capabilities.
unsigned program_obstacles_now(const struct program *program)
{
    unsigned obstacles = program->obstacles;
    bool changes_user = (program->mode & S_ISUID) && program->owner != geteuid();
    bool changes_group = (program->mode & S_ISGID) && program->group != getegid();
    bool idle = privileges_void(program);
    if (idle || !(changes_user || changes_group))
        obstacles &= ~(unsigned)PROGRAM_SET_ID;
    if (idle || getuid() == 0)
        obstacles &= ~(unsigned)PROGRAM_CAPABLE;
    return obstacles;
}

static const struct program_text texts[] = {
    {PROGRAM_STATIC, "is statically linked, so no library can be preloaded", "use a dynamically linked build of it"},
    {PROGRAM_GO, "is a Go program, which calls the kernel without the C library",
     "none: its connections stay TCP; put a proxy that uses the C library in front of it if they matter"},
    {PROGRAM_BITS, "is a 32-bit program, which cannot load the 64-bit library", "use a 64-bit build of it"},
    {PROGRAM_MACHINE, "is built for another processor than the library", "use a build of it for this processor"},
    {PROGRAM_LOADER, "is linked with another C library than glibc, which cannot load this library",
     "use a build of it for glibc"},
    {PROGRAM_SET_ID, "is setuid or setgid, for which the loader ignores LD_PRELOAD",
     "start it as the user and group that it changes to, or clear the bits (chmod ug-s)"},
    {PROGRAM_CAPABLE, "has file capabilities, for which the loader ignores LD_PRELOAD",
     "clear them (setcap -r) and have its service grant them (AmbientCapabilities= of systemd)"},
};

const struct program_text *program_texts(size_t *count)
{
    *count = sizeof(texts) / sizeof(texts[0]);
    return texts;
}
