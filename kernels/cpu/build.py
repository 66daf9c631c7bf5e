"""Compile every tile program for one CPU level into one relocatable object, and describe it.

    python -m kernels.cpu.build LEVEL OUTPUT.o OUTPUT.inc

Run by CMake, once per level. Numba gives the optimised LLVM module of each program; everything but
the entry is made internal, the module is optimised once more (that drops what became unreachable)
and emitted as position-independent code. `gates` says what it must satisfy. OUTPUT.inc lists the
programs as C macros for the core's table.
"""

import os
import sys
from pathlib import Path


def select_target(level: str) -> None:
    """Tell Numba the CPU before it is imported: the name alone leaves the host's features on."""
    from .target import TARGETS

    os.environ["NUMBA_CPU_NAME"] = level
    os.environ["NUMBA_CPU_FEATURES"] = TARGETS[level].features


def emit(programs: dict[str, object], level: str, symbol: str):
    """One LLVM module with an entry `pyi_<symbol>_<name>` per program, and its target machine."""
    import llvmlite.binding as llvm

    from . import gates
    from .target import TARGETS

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    machine = llvm.Target.from_default_triple().create_target_machine(
        cpu=level, features=TARGETS[level].features, opt=3, reloc="pic", codemodel="small"
    )
    linked = None
    for name, program in programs.items():
        entry = f"pyi_{symbol}_{name}"
        text = program.inspect_llvm().replace(program.native_name, entry)
        module = llvm.parse_assembly(text)
        for item in [*module.functions, *module.global_variables]:
            if item.name == entry:
                item.visibility = "hidden"
            elif not item.is_declaration:
                item.linkage = "internal"
        builder = llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options(3))
        builder.getModulePassManager().run(module, builder)
        symbols = {f.name for f in module.functions if f.is_declaration}
        symbols = {name for name in symbols if not name.startswith("llvm.")}
        if failure := gates.check(symbols, machine.emit_assembly(module)):
            raise SystemExit(f"{name} for {level}: {failure}")
        if linked is None:
            linked = module
        else:
            linked.link_in(module)
    return linked, machine


def main() -> None:
    level, object_path, table_path = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    select_target(level)
    from . import programs
    from .target import TARGETS

    target = TARGETS[level]
    compiled = programs.compile_all(target)
    module, machine = emit(compiled, level, target.symbol)
    object_path.write_bytes(machine.emit_object(module))
    sizes = (target.vl, target.mr, target.half, target.nv, target.wgrad_mr, target.wgrad_nv)
    rows = [f"PYI_PROGRAM({target.symbol}, {name})" for name in compiled]
    rows.append(f'PYI_LEVEL({target.symbol}, "{level}", {", ".join(map(str, sizes))})')
    table_path.write_text("\n".join(rows) + "\n")


if __name__ == "__main__":
    main()
