#include "fiber.h"

#include <cstdint>

#if !defined(EMU_UCONTEXT)
// void emu_switch(void** from, void* to). Only callee-saved registers: the compiler takes care of
// the others at a call. MXCSR and the x87 control word are the same in all fibers. 16 times faster
// than swapcontext, which asks the kernel for the signal mask (124 and 8 us for a barrier of 256
// threads).
extern "C" void emu_switch(void** from, void* to);
asm(R"(.text
.p2align 4
.globl emu_switch
.hidden emu_switch
.type emu_switch,@function
emu_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size emu_switch,.-emu_switch
)");

namespace emu {

void switch_context(Context& from, Context& to) { emu_switch(&from, to); }

void make_context(Context& context, char* low, std::size_t bytes, void (*body)()) {
  auto** top = reinterpret_cast<void**>(low + bytes);
  *--top = nullptr;  // no return address: unwinding ends here, and rsp is 8 mod 16 at entry
  *--top = reinterpret_cast<void*>(body);
  for (int i = 0; i < 6; i++) *--top = nullptr;
  context = top;
}

}  // namespace emu

#else

namespace emu {

void switch_context(Context& from, Context& to) { swapcontext(&from, &to); }

void make_context(Context& context, char* low, std::size_t bytes, void (*body)()) {
  getcontext(&context);
  context.uc_stack.ss_sp = low;
  context.uc_stack.ss_size = bytes;
  context.uc_link = nullptr;
  makecontext(&context, body, 0);
}

}  // namespace emu
#endif
