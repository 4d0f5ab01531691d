//! Writes what libFuzzer begins with: `FOLDER/TARGET/...`, and the words of each target's inputs
//! as `FOLDER/TARGET.dict`.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::{env, fs, io};

fn main() -> io::Result<()> {
    let folder = env::args_os()
        .nth(1)
        .map(PathBuf::from)
        .ok_or_else(|| io::Error::other("usage: fuzz-seeds FOLDER"))?;
    for target in medbind_fuzz::TARGETS {
        let seeds = folder.join(target.name);
        fs::create_dir_all(&seeds)?;
        for seed in (target.seeds)() {
            fs::write(seeds.join(seed.name), seed.octets)?;
        }
        let words = target.words.iter().fold(String::new(), |mut text, word| {
            // Each octet by its number, so that none has to be written in another way.
            text.push('"');
            for octet in word.bytes() {
                let _ = write!(text, "\\x{octet:02x}");
            }
            text.push_str("\"\n");
            text
        });
        fs::write(folder.join(format!("{}.dict", target.name)), words)?;
    }
    Ok(())
}
