//! The program `slm-mesh`. Passes the arguments to the module `cli`, and exits with the status that `cli` returns.

use std::process::ExitCode;

/// Replaces the allocator of musl, which is slow. Cargo.toml says more.
#[cfg(target_env = "musl")]
#[global_allocator]
static ALLOCATOR: dlmalloc::GlobalDlmalloc = dlmalloc::GlobalDlmalloc;

fn main() -> ExitCode {
    ExitCode::from(slm_mesh::cli::main(std::env::args_os().skip(1).collect()))
}
