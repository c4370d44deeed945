//! Names the kernel-side object to embed: the one that is committed, unless another is asked for.

use std::{env, path::PathBuf};

fn main() {
    println!("cargo::rerun-if-env-changed=SLOWBURN_BPF_OBJECT");
    let committed = PathBuf::from(env::var("CARGO_MANIFEST_DIR").expect("cargo sets it"))
        .join("ebpf/prebuilt/slowburn.bpf.o");
    let object = env::var("SLOWBURN_BPF_OBJECT").map_or(committed, PathBuf::from);
    assert!(
        object.is_file(),
        "no kernel-side object at {}: build it with `cargo xtask build-ebpf`",
        object.display()
    );
    println!("cargo::rerun-if-changed={}", object.display());
    println!("cargo::rustc-env=SLOWBURN_BPF_OBJECT={}", object.display());
}
