// Characters are those of the locale (LC_CTYPE): what it cannot print is not printed.
#include "ctl/text.h"

#include <stdbool.h>
#include <string.h>
#include <wchar.h>
#include <wctype.h>

// The next character: its bytes, and its cells, or 0 cells if it cannot be printed.
static size_t next_character(const char *text, size_t *cells)
{
    mbstate_t state = {0};
    wchar_t character;
    size_t bytes = mbrtowc(&character, text, strlen(text), &state);
    *cells = 0;
    if (bytes == (size_t)-1 || bytes == (size_t)-2)
        return 1;
    int width = iswprint((wint_t)character) ? wcwidth(character) : 0;
    *cells = width > 0 ? (size_t)width : 0;
    return bytes;
}

void text_clean(char *out, size_t size, const char *text)
{
    size_t used = 0;
    while (*text) {
        size_t cells;
        size_t bytes = next_character(text, &cells);
        const char *shown = cells > 0 ? text : "?";
        size_t room = cells > 0 ? bytes : 1;
        if (used + room >= size)
            break;
        memcpy(out + used, shown, room);
        used += room;
        text += bytes;
    }
    out[used] = '\0';
}

void text_print(FILE *out, const char *text)
{
    char clean[4096];
    text_clean(clean, sizeof(clean), text);
    fputs(clean, out);
}

size_t text_cells(const char *text)
{
    size_t sum = 0;
    while (*text) {
        size_t cells;
        text += next_character(text, &cells);
        sum += cells;
    }
    return sum;
}

void text_cut(char *text, size_t cells)
{
    if (text_cells(text) <= cells || cells == 0)
        return;
    size_t taken = 0;
    for (;;) {
        size_t width;
        size_t bytes = next_character(text, &width);
        if (taken + width > cells - 1)
            break;
        taken += width;
        text += bytes;
    }
    strcpy(text, "+");
}
