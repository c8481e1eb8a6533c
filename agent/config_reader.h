// How configuration is read, and written again: by tables of keys, each of a type.
#pragma once

#include <jansson.h>
#include <stddef.h>
#include <stdint.h>

// Where in the document the reading is, and what to say if it fails there.
struct config_reader {
    const char *file;
    char *error;
    char key[256];
};

struct config_key;

struct config_type {
    int (*read)(struct config_reader *reader, const struct config_key *key, json_t *value, void *field);
    json_t *(*write)(const struct config_key *key, const void *field);
    void (*clear)(const struct config_key *key, void *field); // null: nothing to free
};

// What a list holds.
struct config_item {
    size_t size;
    int (*read)(struct config_reader *reader, json_t *value, void *item);
    json_t *(*write)(const void *item);
    void (*clear)(void *item);
};

struct config_key {
    const char *name;
    const struct config_type *type;
    size_t offset;                  // of the field, in struct config or in what `keys` or `item` are about
    const struct config_key *keys;  // of a section: ends with a null name
    const struct config_item *item; // of a list
    uint64_t least, most;           // of a number
};

// A key that is called like the member that it sets, which is of `of`.
#define CONFIG_KEY(of, member, kind, ...) \
    { \
        .name = #member, .type = &config_type_##kind, .offset = offsetof(struct of, member), __VA_ARGS__ \
    }

#define CONFIG_NUMBER_MOST ((uint64_t)1 << 62)

// The types: of an object, of lists (struct policy_list) without and with null for "no restriction", of bool, and of
// uint64_t as a number, and as bytes ("256KiB").
extern const struct config_type config_type_section, config_type_list, config_type_optional_list, config_type_switch,
    config_type_count, config_type_size;

// Items that are struct network.
extern const struct config_item config_item_network;

// All of these return -EINVAL, having said where and what is wrong.
int config_reader_fail_text(struct config_reader *reader, const char *text);
int config_reader_fail(struct config_reader *reader, json_t *found, const char *expected, ...)
    __attribute__((format(printf, 3, 4)));

// Goes down to a key or an element. What it returns is the way back up.
size_t config_reader_descend(struct config_reader *reader, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
void config_reader_ascend(struct config_reader *reader, size_t length);

// An object, with `section->keys`, at `field`. On failure what was read so far is there, to be cleared.
int config_read_section(struct config_reader *reader, const struct config_key *section, json_t *value, void *field);
json_t *config_write_section(const struct config_key *section, const void *field);
void config_clear_section(const struct config_key *section, void *field);

// For types that are made of these.
int config_read_size(struct config_reader *reader, const struct config_key *key, json_t *value, void *field);
json_t *config_write_count(const struct config_key *key, const void *field);
