// The configuration's "peers" and "rdma".
#pragma once

#include "agent/config.h"
#include "agent/config_reader.h"

// A struct peer.
extern const struct config_item config_item_peer;

// Of struct config_rdma.
extern const struct config_key config_rdma_keys[];

void config_rdma_init(struct config_rdma *rdma);

// What one peer alone cannot tell: that no two have the same name or address. Returns 0 or -EINVAL.
int config_check_peers(struct config_reader *reader, const struct config *config);
