// The reading and writing of configuration by tables.

#include "agent/config_reader.h"

#include <errno.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/address.h"
#include "agent/config.h"
#include "agent/policy.h"

// Errors.

int config_reader_fail_text(struct config_reader *reader, const char *text)
{
    snprintf(reader->error, CONFIG_ERROR, "%s%s%s%s%s", reader->file, *reader->file ? ": " : "", reader->key,
             *reader->key ? ": " : "", text);
    return -EINVAL;
}

int config_reader_fail(struct config_reader *reader, json_t *found, const char *format, ...)
{
    char expected[CONFIG_ERROR / 4], text[CONFIG_ERROR / 2];
    char *dump = json_dumps(found, JSON_ENCODE_ANY | JSON_COMPACT);
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(expected, sizeof(expected), format, arguments);
    va_end(arguments);
    snprintf(text, sizeof(text), "expected %s, found %.60s%s", expected, dump ? dump : "?",
             dump && strlen(dump) > 60 ? "..." : "");
    free(dump);
    return config_reader_fail_text(reader, text);
}

// Goes down to a key or an element. The length before is the way back up.
size_t config_reader_descend(struct config_reader *reader, const char *format, ...)
{
    size_t length = strlen(reader->key);
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(reader->key + length, sizeof(reader->key) - length, format, arguments);
    va_end(arguments);
    return length;
}

void config_reader_ascend(struct config_reader *reader, size_t length)
{
    reader->key[length] = '\0';
}

// Sections.

static void list_names(const struct config_key *keys, char *text, size_t size)
{
    size_t length = 0;

    for (const struct config_key *key = keys; key->name && length < size; key++)
        length += (size_t)snprintf(text + length, size - length, "%s%s", key == keys ? "" : ", ", key->name);
}

static const struct config_key *find_key(const struct config_key *keys, const char *name)
{
    for (const struct config_key *key = keys; key->name; key++) {
        if (strcmp(key->name, name) == 0)
            return key;
    }
    return NULL;
}

static int fail_unknown(struct config_reader *reader, const struct config_key *keys)
{
    char names[CONFIG_ERROR / 4], text[CONFIG_ERROR / 2];

    list_names(keys, names, sizeof(names));
    snprintf(text, sizeof(text), "unknown key, expected one of %s", names);
    return config_reader_fail_text(reader, text);
}

int config_read_section(struct config_reader *reader, const struct config_key *section, json_t *value, void *field)
{
    const char *name;
    json_t *member;
    int result = 0;

    if (!json_is_object(value))
        return config_reader_fail(reader, value, "an object");
    json_object_foreach (value, name, member) {
        const struct config_key *key = find_key(section->keys, name);
        size_t up = config_reader_descend(reader, "%s%s", *reader->key ? "." : "", name);
        if (!key)
            result = fail_unknown(reader, section->keys);
        else
            result = key->type->read(reader, key, member, (char *)field + key->offset);
        if (result < 0)
            return result;
        config_reader_ascend(reader, up);
    }
    return 0;
}

json_t *config_write_section(const struct config_key *section, const void *field)
{
    json_t *object = json_object();

    for (const struct config_key *key = section->keys; object && key->name; key++) {
        if (json_object_set_new(object, key->name, key->type->write(key, (const char *)field + key->offset)) < 0) {
            json_decref(object);
            object = NULL;
        }
    }
    return object;
}

void config_clear_section(const struct config_key *section, void *field)
{
    for (const struct config_key *key = section->keys; key->name; key++) {
        if (key->type->clear)
            key->type->clear(key, (char *)field + key->offset);
    }
}

const struct config_type config_type_section = {config_read_section, config_write_section, config_clear_section};

// Lists.

static void clear_list(const struct config_key *key, void *field)
{
    struct policy_list *list = field;

    for (size_t i = 0; key->item->clear && i < list->count; i++)
        key->item->clear((char *)list->items + i * key->item->size);
    free(list->items);
    *list = (struct policy_list){0};
}

static int read_items(struct config_reader *reader, const struct config_key *key, json_t *array,
                      struct policy_list *list)
{
    size_t count = json_array_size(array);

    list->items = calloc(count ? count : 1, key->item->size);
    if (!list->items)
        return config_reader_fail_text(reader, "no memory");
    while (list->count < count) {
        size_t up = config_reader_descend(reader, "[%zu]", list->count);
        int result = key->item->read(reader, json_array_get(array, list->count),
                                     (char *)list->items + list->count * key->item->size);
        if (result < 0)
            return result;
        config_reader_ascend(reader, up);
        list->count++;
    }
    return 0;
}

static int read_list(struct config_reader *reader, const struct config_key *key, json_t *value, void *field)
{
    if (!json_is_array(value))
        return config_reader_fail(reader, value, "an array");
    clear_list(key, field);
    return read_items(reader, key, value, field);
}

static json_t *write_list(const struct config_key *key, const void *field)
{
    const struct policy_list *list = field;
    json_t *array = json_array();

    for (size_t i = 0; array && i < list->count; i++) {
        if (json_array_append_new(array, key->item->write((const char *)list->items + i * key->item->size)) < 0) {
            json_decref(array);
            array = NULL;
        }
    }
    return array;
}

const struct config_type config_type_list = {read_list, write_list, clear_list};

// Null stands for no restriction.
static int read_optional_list(struct config_reader *reader, const struct config_key *key, json_t *value, void *field)
{
    if (!json_is_array(value) && !json_is_null(value))
        return config_reader_fail(reader, value, "an array or null");
    if (json_is_array(value))
        return read_list(reader, key, value, field);
    clear_list(key, field);
    ((struct policy_list *)field)->all = true;
    return 0;
}

static json_t *write_optional_list(const struct config_key *key, const void *field)
{
    return ((const struct policy_list *)field)->all ? json_null() : write_list(key, field);
}

const struct config_type config_type_optional_list = {read_optional_list, write_optional_list, clear_list};

// Plain values.

static int read_switch(struct config_reader *reader, const struct config_key *key, json_t *value, void *field)
{
    if (!json_is_boolean(value))
        return config_reader_fail(reader, value, "true or false");
    *(bool *)field = json_is_true(value);
    return 0;
}

static json_t *write_switch(const struct config_key *key, const void *field)
{
    return json_boolean(*(const bool *)field);
}

const struct config_type config_type_switch = {read_switch, write_switch, NULL};

static int read_count(struct config_reader *reader, const struct config_key *key, json_t *value, void *field)
{
    json_int_t number = json_is_integer(value) ? json_integer_value(value) : -1;

    if (number < 0 || (uint64_t)number < key->least || (uint64_t)number > key->most)
        return config_reader_fail(reader, value, "a whole number from %llu to %llu", (unsigned long long)key->least,
                                  (unsigned long long)key->most);
    *(uint64_t *)field = (uint64_t)number;
    return 0;
}

json_t *config_write_count(const struct config_key *key, const void *field)
{
    return json_integer((json_int_t) * (const uint64_t *)field);
}

const struct config_type config_type_count = {read_count, config_write_count, NULL};

// "256KiB". Returns 0 or -EINVAL.
static int parse_size(const char *text, uint64_t *size)
{
    static const struct {
        const char *name;
        unsigned shift;
    } units[] = {{"", 0}, {"B", 0}, {"KiB", 10}, {"MiB", 20}, {"GiB", 30}, {"TiB", 40}};
    unsigned long long number;
    char *end;

    if (*text < '0' || *text > '9')
        return -EINVAL;
    errno = 0;
    number = strtoull(text, &end, 10);
    if (errno)
        return -EINVAL;
    for (size_t i = 0; i < sizeof(units) / sizeof(units[0]); i++) {
        if (strcmp(end, units[i].name) == 0 && number <= UINT64_MAX >> units[i].shift) {
            *size = (uint64_t)number << units[i].shift;
            return 0;
        }
    }
    return -EINVAL;
}

int config_read_size(struct config_reader *reader, const struct config_key *key, json_t *value, void *field)
{
    uint64_t size = 0;
    bool understood = json_is_integer(value) && json_integer_value(value) >= 0;

    if (understood)
        size = (uint64_t)json_integer_value(value);
    else if (json_is_string(value))
        understood = parse_size(json_string_value(value), &size) == 0;
    if (!understood || size < key->least || size > key->most)
        return config_reader_fail(reader, value, "a number of bytes from %llu to %llu, or a string such as \"256KiB\"",
                                  (unsigned long long)key->least, (unsigned long long)key->most);
    *(uint64_t *)field = size;
    return 0;
}

const struct config_type config_type_size = {config_read_size, config_write_count, NULL};

// Networks.

static int read_network(struct config_reader *reader, json_t *value, void *item)
{
    if (json_is_string(value) && network_parse(item, json_string_value(value)) == 0)
        return 0;
    return config_reader_fail(reader, value,
                              "an address or network such as \"10.0.0.0/8\" or \"fd00::/8\", "
                              "no bit set beyond its prefix");
}

static json_t *write_network(const void *item)
{
    char text[ADDRESS_TEXT];

    return json_string(network_format(item, text));
}

const struct config_item config_item_network = {sizeof(struct network), read_network, write_network, NULL};
