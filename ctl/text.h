// Text from elsewhere on a terminal. A program chooses its own name, so what the agent reports may hold anything:
// escape sequences, newlines, broken UTF-8. Nothing of it reaches the terminal unless it is printable.
#pragma once

#include <stddef.h>
#include <stdio.h>

// Copies `text` with everything unprintable replaced by '?', cut to fit into `size` bytes.
void text_clean(char *out, size_t size, const char *text);

// Prints `text` so.
void text_print(FILE *out, const char *text);

// Terminal cells that clean text takes.
size_t text_cells(const char *text);

// Shortens clean text in place to at most `cells`, the last of them a '+' where something was cut off.
void text_cut(char *text, size_t cells);
