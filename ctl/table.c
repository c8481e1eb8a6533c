#include "ctl/table.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "ctl/ctl.h"
#include "ctl/text.h"

#define TABLE_WIDTH       100
#define TABLE_WIDTH_LEAST 80
#define TABLE_CELL_MAX    256

struct table {
    const struct table_column *columns;
    size_t count;
    char **cells; // row by row, clean text
    size_t used;
    size_t room;
    size_t widths[];
};

struct table *table_new(const struct table_column *columns, size_t count)
{
    struct table *table = ctl_memory(calloc(1, sizeof(*table) + count * sizeof(table->widths[0])));
    table->columns = columns;
    table->count = count;
    for (size_t i = 0; i < count; i++)
        table->widths[i] = strlen(columns[i].title);
    return table;
}

void table_free(struct table *table)
{
    if (!table)
        return;
    for (size_t i = 0; i < table->used; i++)
        free(table->cells[i]);
    free(table->cells);
    free(table);
}

void table_cell(struct table *table, const char *text)
{
    if (table->used == table->room) {
        table->room = table->room == 0 ? 64 : table->room * 2;
        table->cells = ctl_memory(reallocarray(table->cells, table->room, sizeof(table->cells[0])));
    }
    char clean[TABLE_CELL_MAX];
    text_clean(clean, sizeof(clean), text && *text ? text : "-");
    size_t column = table->used % table->count;
    size_t cells = text_cells(clean);
    if (cells > table->widths[column])
        table->widths[column] = cells;
    table->cells[table->used++] = ctl_memory(strdup(clean));
}

static size_t line_cells(const struct table *table, size_t gap)
{
    size_t sum = gap * (table->count - 1);
    for (size_t i = 0; i < table->count; i++)
        sum += table->widths[i];
    return sum;
}

static size_t least_cells(const struct table_column *column)
{
    size_t title = strlen(column->title);
    return column->least > title ? column->least : title;
}

// Takes one cell off the widest column that may still be cut. Returns false when there is none.
static bool narrow_one(struct table *table)
{
    size_t widest = table->count;
    for (size_t i = 0; i < table->count; i++) {
        if (table->columns[i].least == 0 || table->widths[i] <= least_cells(&table->columns[i]))
            continue;
        if (widest == table->count || table->widths[i] > table->widths[widest])
            widest = i;
    }
    if (widest == table->count)
        return false;
    table->widths[widest]--;
    return true;
}

// Returns the gap between columns.
static size_t fit(struct table *table, size_t width)
{
    if (line_cells(table, 2) <= width)
        return 2;
    while (line_cells(table, 1) > width && narrow_one(table))
        ;
    return 1;
}

static void pad(FILE *out, size_t cells)
{
    while (cells-- > 0)
        fputc(' ', out);
}

static void print_cell(const struct table *table, FILE *out, size_t column, const char *text)
{
    size_t cells = text_cells(text);
    size_t space = table->widths[column] > cells ? table->widths[column] - cells : 0;
    if (table->columns[column].align == TABLE_RIGHT) {
        pad(out, space);
        fputs(text, out);
    } else {
        fputs(text, out);
        if (column + 1 < table->count)
            pad(out, space);
    }
}

static void print_row(const struct table *table, FILE *out, size_t gap, char **cells)
{
    for (size_t i = 0; i < table->count; i++) {
        if (i > 0)
            pad(out, gap);
        if (!cells) {
            print_cell(table, out, i, table->columns[i].title);
            continue;
        }
        text_cut(cells[i], table->widths[i]);
        print_cell(table, out, i, cells[i]);
    }
    fputc('\n', out);
}

void table_print(struct table *table, FILE *out, size_t width, size_t rows)
{
    size_t gap = fit(table, width);
    print_row(table, out, gap, NULL);
    for (size_t row = 0; row < rows && (row + 1) * table->count <= table->used; row++)
        print_row(table, out, gap, &table->cells[row * table->count]);
}

size_t table_width(FILE *out)
{
    struct winsize size;
    if (ioctl(fileno(out), TIOCGWINSZ, &size) < 0 || size.ws_col == 0)
        return TABLE_WIDTH;
    return size.ws_col < TABLE_WIDTH_LEAST ? TABLE_WIDTH_LEAST : size.ws_col;
}
