//! The daemon and its tools: see `tidegate --help`.

fn main() {
    let code = tidegate::cli::main();
    // Threads of librdkafka may still close their TLS connections, with what OpenSSL's exit handler frees.
    tidegate_kafka_batch::exit_now(code)
}
