// Tables for people: cells aligned in columns, as wide as their contents, squeezed when the line would be too long.
#pragma once

#include <stddef.h>
#include <stdio.h>

enum table_align { TABLE_LEFT, TABLE_RIGHT };

struct table_column {
    const char *title;
    enum table_align align;
    size_t least; // cells that its contents may be cut down to if the line is too long; 0: never cut
};

struct table;

// `columns` must outlive the table.
struct table *table_new(const struct table_column *columns, size_t count);
void table_free(struct table *table);

// Fills in the next cell, row by row. `text` may hold anything (see text.h); empty and NULL become "-".
void table_cell(struct table *table, const char *text);

// Prints the titles and the rows, `rows` at most, in lines of `width` cells if it can be done: first by setting the
// columns closer, then by cutting those that may be cut.
void table_print(struct table *table, FILE *out, size_t width, size_t rows);

// The width for tables on `out`: the terminal's, or 100.
size_t table_width(FILE *out);
