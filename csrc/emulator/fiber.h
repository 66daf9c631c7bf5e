// Switching between the stacks of one host thread.
#pragma once

#include <cstddef>

// Other processors than x86-64, or whoever asks for it, switch through the C library.
#if !defined(__x86_64__) && !defined(EMU_UCONTEXT)
#define EMU_UCONTEXT
#endif
#if defined(EMU_UCONTEXT)
#include <ucontext.h>
#endif

namespace emu {

#if !defined(EMU_UCONTEXT)
using Context = void*;  // the stack pointer; callee-saved registers lie above it
#else
using Context = ucontext_t;
#endif

// Saves where we are in `from` and goes on at `to`.
void switch_context(Context& from, Context& to);

// Prepares `context` to run `body`, which must not return, on the stack [low, low + bytes).
void make_context(Context& context, char* low, std::size_t bytes, void (*body)());

}  // namespace emu
