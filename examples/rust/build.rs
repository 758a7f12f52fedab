//! Generates the stubs from the proto. protox compiles it, so no protoc is needed.

const PROTOS: &str = "../../protos";

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed={PROTOS}");
    let files = protox::compile(["openlimit/v1/rate_limit.proto"], [PROTOS])?;
    tonic_prost_build::configure()
        .build_server(false)
        .extern_path(".google.rpc", "::tonic_types::pb") // tonic's own, not a second one
        .compile_fds(files)?;
    Ok(())
}
