//! The daemon and its tools: see `tidegate --help`.

fn main() {
    let code = tidegate::cli::main();
    // Don't run exit handlers: threads of librdkafka may still be closing TLS connections, and use memory that OpenSSL's
    // handler frees.
    tidegate_kafka_batch::exit_now(code)
}
