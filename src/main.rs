//! The daemon and its tools: see `tidegate --help`.

fn main() -> std::process::ExitCode {
    tidegate::cli::main()
}
