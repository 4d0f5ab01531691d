//! Which system is this? What is built here runs in an image of the same, or a newer one.

use std::fs;

/// The system that this runs on, as far as an image is chosen by it.
#[derive(Debug, PartialEq, Eq)]
pub struct Host {
    id: String,
    version: String,
    /// The release's name, as `debootstrap` knows it.
    pub codename: String,
}

impl Host {
    /// Reads `/etc/os-release`.
    pub fn read() -> Self {
        Self::parse(&fs::read_to_string("/etc/os-release").unwrap_or_default())
    }

    /// Debian 13 where the text does not name a Debian or Ubuntu: images of the others may be
    /// older than what was built, and `--base` names a better one.
    fn parse(text: &str) -> Self {
        let field = |name: &str| {
            let line = text
                .lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
            line.map(|value| value.trim_matches(['"', '\'']).to_owned())
        };
        let (id, version, codename) = (field("ID"), field("VERSION_ID"), field("VERSION_CODENAME"));
        match (id, version, codename) {
            (Some(id), Some(version), Some(codename)) if id == "debian" || id == "ubuntu" => Self {
                id,
                version,
                codename,
            },
            _ => Self {
                id: "debian".to_owned(),
                version: "13".to_owned(),
                codename: "trixie".to_owned(),
            },
        }
    }

    /// The image of this system, where somebody has pulled it.
    pub fn base_image(&self) -> String {
        match self.id.as_str() {
            "ubuntu" => format!("ubuntu:{}", self.version),
            _ => format!("debian:{}-slim", self.codename),
        }
    }

    /// The image that is made of its packages.
    pub fn own_base_image(&self) -> String {
        format!("medbind/base:{}", self.codename)
    }
}

#[cfg(test)]
mod tests {
    use super::Host;

    #[test]
    fn the_image_is_of_the_system_that_the_programs_are_built_on() {
        for (text, image, own) in [
            (
                "PRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\nVERSION_ID=\"12\"\nVERSION_CODENAME=bookworm\nID=debian\n",
                "debian:bookworm-slim",
                "medbind/base:bookworm",
            ),
            (
                "NAME=\"Ubuntu\"\nVERSION_ID=\"24.04\"\nVERSION_CODENAME=noble\nID=ubuntu\n",
                "ubuntu:24.04",
                "medbind/base:noble",
            ),
            (
                "ID=fedora\nVERSION_ID=44\n",
                "debian:trixie-slim",
                "medbind/base:trixie",
            ),
        ] {
            let host = Host::parse(text);
            assert_eq!(
                (host.base_image(), host.own_base_image()),
                (image.to_owned(), own.to_owned())
            );
        }
    }
}
