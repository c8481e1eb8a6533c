// The agent's list of sessions, as `list` and `top` use it: one JSON object for each end, the rows of the control
// protocol. A field that an older or newer agent does not send is shown as "-", not complained about.
#pragma once

#include <jansson.h>
#include <stdint.h>

struct ctl;

struct sessions_filter {
    long long pid;  // 0: any
    long long port; // 0: any; local or remote
};

// Fetches the rows that pass the filter, ordered by session, waiting offers last. Returns 0 and *rows, an array of
// objects, the caller's; or an exit code after a complaint.
int sessions_fetch(const struct ctl *ctl, const struct sessions_filter *filter, json_t **rows);

// A field as text for a table cell: a string as it is, an integer in decimal, anything else NULL.
// `room` holds the digits.
const char *sessions_text(const json_t *row, const char *field, char room[static 32]);

// The field if it is a number, else `missing`.
int64_t sessions_integer(const json_t *row, const char *field, int64_t missing);
double sessions_real(const json_t *row, const char *field, double missing);

// A byte count in short form ("1.5M"), NULL if the field is missing.
const char *sessions_bytes(const json_t *row, const char *field, char room[static 32]);
