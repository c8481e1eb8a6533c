// A whole agent within a fuzzer, in a directory of its own, whose loop runs when it is told to.
#pragma once

#include "agent/agent.h"

// The one agent of this program; made at the first call.
struct agent *agent_rig(void);

// Lets it do what there is to do now.
void agent_rig_run(struct agent *agent);
