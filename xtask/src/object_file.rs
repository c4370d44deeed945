//! What is done to the linked object before it is committed.

use anyhow::{Context, Result, bail};
use object::{
    build::elf::{Builder, SectionData},
    elf,
};

/// Makes the linker's output fit to be committed: small, and the same wherever it was built.
pub fn finish(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut object = Builder::read(bytes).context("the linker's output is no ELF file")?;
    drop_dwarf(&mut object);
    for symbol in &mut object.symbols {
        if let Ok(name) = str::from_utf8(symbol.name.as_slice()) {
            symbol.name = without_crate_hashes(name).into_bytes().into();
        }
    }
    let mut finished = Vec::new();
    object
        .write(&mut finished)
        .context("cannot write the object without its DWARF")?;
    Ok(finished)
}

/// Drops the DWARF sections and their relocations. They are most of the file, and no loader reads them:
/// the types are in `.BTF`, which the linker has made of them, and the source lines in `.BTF.ext`.
fn drop_dwarf(object: &mut Builder) {
    for section in &mut object.sections {
        let name = section.name.as_slice();
        if name.starts_with(b".debug_") || name.starts_with(b".rel.debug_") {
            section.delete = true;
        }
    }
    object.delete_orphans();
    // LLVM keeps the names of sections and symbols in one table, which the writer does not.
    if !object
        .sections
        .iter()
        .any(|section| matches!(section.data, SectionData::SectionString))
    {
        let names = object.sections.add();
        names.name = ".shstrtab".into();
        names.sh_type = elf::SHT_STRTAB;
        names.sh_addralign = 1;
        names.data = SectionData::SectionString;
    }
}

/// Takes the crates' hashes out of a mangled name: `Cs1a2b3c_5crate` becomes `C5crate`.
///
/// They depend on where the repository lies, as the kernel side takes `common` from outside its workspace.
/// Only local functions have mangled names, and nothing looks them up.
fn without_crate_hashes(name: &str) -> String {
    let mut rest = name;
    let mut plain = String::new();
    while let Some(at) = rest.find("Cs").filter(|_| name.starts_with("_R")) {
        let (before, hash) = rest.split_at(at + 1);
        plain.push_str(before);
        let end = hash
            .find(|c: char| !c.is_ascii_alphanumeric())
            .unwrap_or(hash.len());
        let after = hash.get(end + 1..).unwrap_or_default();
        let is_hash =
            hash[end..].starts_with('_') && after.starts_with(|c: char| c.is_ascii_digit());
        rest = if is_hash { after } else { hash };
    }
    plain + rest
}

/// Fails unless the object has what the daemon's loader needs.
pub fn check_sections(bytes: &[u8]) -> Result<()> {
    let object = Builder::read(bytes).context("the object is no ELF file")?;
    for wanted in [".BTF", ".BTF.ext", ".symtab"] {
        if !object
            .sections
            .iter()
            .any(|section| section.name.as_slice() == wanted.as_bytes())
        {
            bail!("the object has no section `{wanted}`; was it linked with --btf?");
        }
    }
    Ok(())
}

/// Fails if the bytes hold one of these paths: a committed file must not tell where it was built.
pub fn check_paths(bytes: &[u8], private: &[String]) -> Result<()> {
    for path in private {
        if bytes
            .windows(path.len())
            .any(|window| window == path.as_bytes())
        {
            bail!(
                "the object contains the path {path} of this machine; its prefix must be remapped"
            );
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crate_hashes_go_and_the_rest_stays() {
        for (name, plain) in [
            (
                "_RNvNtCsia7UA8go9H4_13slowburn_ebpf4task6followNtCs3Pl7_8aya_ebpf3fooE0B6_",
                "_RNvNtC13slowburn_ebpf4task6followNtC8aya_ebpf3fooE0B6_",
            ),
            ("_RNvC5crate3Csx", "_RNvC5crate3Csx"),
            ("_RNvCs", "_RNvCs"),
            ("MEMBERS", "MEMBERS"),
            ("Cs1_2x", "Cs1_2x"),
        ] {
            assert_eq!(without_crate_hashes(name), plain);
        }
    }

    #[test]
    fn what_is_no_object_is_an_error() {
        assert!(finish(b"no ELF file").is_err());
        assert!(check_sections(b"").is_err());
    }

    #[test]
    fn private_paths_are_found() {
        let private = ["/home/me".to_owned()];
        assert!(check_paths(b"a/home/me/b", &private).is_err());
        assert!(check_paths(b"a/home/you", &private).is_ok());
    }
}
