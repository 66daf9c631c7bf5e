// Pure value semantics of PTX: everything a translated statement computes that is not memory,
// synchronisation or a warp's collective.
#pragma once

#include "convert.h"
#include "floating.h"
#include "integer.h"
#include "types.h"
