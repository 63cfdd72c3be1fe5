//! The `walden` program: see the library's documentation, `walden --help` and README.md.

fn main() {
    let code = walden::cli::run(std::env::args_os().collect(), std::env::vars_os());
    std::process::exit(code.into());
}
