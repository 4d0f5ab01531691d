//! What is printed on the device? A label with a QR code and what a person must type without a
//! camera, as SVG, as PNG, and in the terminal.

use font8x8::UnicodeFonts as _;
use medbind_core::claim::{ClaimCode, ClaimSecret};
use medbind_core::identity::DeviceId;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use qrcode::render::unicode::Dense1x2;
use qrcode::{Color, EcLevel, QrCode};

use crate::failure::Failure;
use crate::output::put;

/// What is escaped in a fragment's value: all but what is unreserved (RFC 3986, 2.3).
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// The link that the QR code holds: `<portal>/claim#code=...&secret=...`. Without a portal the
/// fragment alone.
pub fn link(portal: Option<&str>, code: &ClaimCode, secret: Option<&ClaimSecret>) -> String {
    let mut link = match portal {
        Some(portal) => format!("{}/claim#", portal.trim_end_matches('/')),
        None => String::new(),
    };
    let escaped = |text: &str| utf8_percent_encode(text, ESCAPED).to_string();
    link.push_str("code=");
    link.push_str(&escaped(&code.to_string()));
    if let Some(secret) = secret {
        link.push_str("&secret=");
        link.push_str(&escaped(&secret.reveal().to_string()));
    }
    link
}

/// Stands above the claim secret.
pub const SECRET_HEADING: &str = "CLAIM SECRET";

/// A label, ready to be drawn.
pub struct Label {
    qr: QrCode,
    link: String,
    lines: Vec<Line>,
}

struct Line {
    text: String,
    /// In steps of the small letters: 1 or 2.
    size: u32,
}

/// The quiet zone around a QR code, in modules (ISO/IEC 18004, 9.1).
const QUIET: u32 = 4;
/// Pixels of a module.
const MODULE: u32 = 8;
/// Pixels of a font's dot, for small letters.
const DOT: u32 = 2;
/// Dots of a letter, each way.
const CELL: u32 = 8;

impl Label {
    /// The label of a device. Without `secret` it holds the code alone.
    pub fn new(
        portal: Option<&str>,
        device: &DeviceId,
        code: &ClaimCode,
        secret: Option<&ClaimSecret>,
    ) -> Result<Self, Failure> {
        let link = link(portal, code, secret);
        let qr = QrCode::with_error_correction_level(&link, EcLevel::M).map_err(|error| {
            Failure::usage(format_args!(
                "the link does not fit into a QR code: {error}"
            ))
            .next("choose a shorter --portal")
        })?;
        let small = |text: &str| Line {
            text: text.to_owned(),
            size: 1,
        };
        let large = |text: String| Line { text, size: 2 };
        let mut lines = vec![small("CLAIM CODE"), large(code.to_string())];
        if let Some(secret) = secret {
            let shown = secret.reveal().to_string();
            let groups: Vec<&str> = shown.split('-').collect();
            lines.push(small(""));
            lines.push(small(SECRET_HEADING));
            lines.extend(groups.chunks(3).map(|row| large(row.join("-"))));
        }
        lines.push(small(""));
        if let Some(portal) = portal {
            let shown = portal.trim_start_matches("https://").trim_end_matches('/');
            lines.push(small(&format!("{shown}/claim")));
        }
        lines.push(small(&format!("SN {}", device.serial())));
        Ok(Self { qr, link, lines })
    }

    /// What the QR code holds.
    pub fn link(&self) -> &str {
        &self.link
    }

    /// Pixels of the square with the QR code and its quiet zone.
    fn square(&self) -> u32 {
        let modules = u32::try_from(self.qr.width()).unwrap_or(177);
        (modules + 2 * QUIET) * MODULE
    }

    fn line_height(line: &Line) -> u32 {
        line.size * DOT * (CELL + 2)
    }

    /// Width and height in pixels.
    fn size(&self) -> (u32, u32) {
        let widest = self.lines.iter().map(|line| {
            let letters = u32::try_from(line.text.chars().count()).unwrap_or(0);
            letters * line.size * DOT * CELL
        });
        let text_width = widest.max().unwrap_or(0) + QUIET * MODULE;
        let text_height: u32 = self.lines.iter().map(Self::line_height).sum();
        let square = self.square();
        (
            square + text_width,
            square.max(text_height + 2 * QUIET * MODULE),
        )
    }

    /// Each line with the pixel of its upper left corner.
    fn placed(&self) -> impl Iterator<Item = (&Line, u32, u32)> {
        let left = self.square();
        let mut top = QUIET * MODULE;
        self.lines.iter().map(move |line| {
            let at = top;
            top += Self::line_height(line);
            (line, left, at)
        })
    }

    /// The upper left pixel of each dark module.
    fn dark_modules(&self) -> impl Iterator<Item = (u32, u32)> {
        let width = u32::try_from(self.qr.width()).unwrap_or(177);
        let colors = self.qr.to_colors();
        (0u32..).zip(colors).filter_map(move |(index, color)| {
            let (x, y) = (index % width, index / width);
            let corner = ((x + QUIET) * MODULE, (y + QUIET) * MODULE);
            (color == Color::Dark).then_some(corner)
        })
    }

    /// As SVG: the text is text, so that it can be read aloud and searched for.
    pub fn svg(&self) -> String {
        let (width, height) = self.size();
        let mut path = String::new();
        for (x, y) in self.dark_modules() {
            put!(path, "M{x} {y}h{MODULE}v{MODULE}h-{MODULE}z");
        }
        let mut svg = format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
             <svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" \
             width=\"{width}\" height=\"{height}\" role=\"img\">\n\
             <title>Claim label</title>\n\
             <rect width=\"{width}\" height=\"{height}\" fill=\"#fff\"/>\n\
             <path fill=\"#000\" shape-rendering=\"crispEdges\" d=\"{path}\"/>\n"
        );
        for (line, x, y) in self.placed().filter(|(line, ..)| !line.text.is_empty()) {
            let letter = line.size * DOT * CELL;
            let length = letter * u32::try_from(line.text.chars().count()).unwrap_or(0);
            put!(
                svg,
                "<text x=\"{x}\" y=\"{}\" font-family=\"monospace\" font-size=\"{}\" \
                 textLength=\"{length}\" lengthAdjust=\"spacingAndGlyphs\" xml:space=\"preserve\">{}</text>\n",
                y + letter,
                letter + letter / 4,
                escape_xml(&line.text),
            );
        }
        svg.push_str("</svg>\n");
        svg
    }

    /// As PNG, one bit a pixel, at 300 dots per inch.
    pub fn png(&self) -> Result<Vec<u8>, Failure> {
        let (width, height) = self.size();
        let mut canvas = Canvas::new(width, height);
        for (x, y) in self.dark_modules() {
            canvas.fill(x, y, MODULE);
        }
        for (line, left, top) in self.placed() {
            let dot = line.size * DOT;
            for (letter, x) in line.text.chars().zip((left..).step_by(step(dot * CELL))) {
                let glyph = font8x8::BASIC_FONTS.get(letter);
                let glyph = glyph
                    .or_else(|| font8x8::BASIC_FONTS.get('?'))
                    .unwrap_or_default();
                for (row, y) in glyph.into_iter().zip((top..).step_by(step(dot))) {
                    for bit in (0..CELL).filter(|bit| row & (1 << bit) != 0) {
                        canvas.fill(x + bit * dot, y, dot);
                    }
                }
            }
        }
        canvas.png()
    }

    /// For the terminal: half blocks, dark on light whatever the terminal's own colours are.
    pub fn terminal(&self) -> String {
        let drawn = self.qr.render::<Dense1x2>().quiet_zone(true).build();
        let style = clap::builder::styling::Style::new()
            .fg_color(Some(clap::builder::styling::AnsiColor::Black.into()))
            .bg_color(Some(clap::builder::styling::AnsiColor::BrightWhite.into()));
        let mut text = String::new();
        for line in drawn.lines() {
            put!(text, "{style}{line}{style:#}\n");
        }
        text
    }
}

fn step(pixels: u32) -> usize {
    usize::try_from(pixels).unwrap_or(1).max(1)
}

fn escape_xml(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

/// White paper, one bit a pixel.
struct Canvas {
    width: u32,
    height: u32,
    row: usize,
    bits: Vec<u8>,
}

impl Canvas {
    fn new(width: u32, height: u32) -> Self {
        let row = step(width.div_ceil(8));
        Self {
            width,
            height,
            row,
            bits: vec![0xFF; row * step(height)],
        }
    }

    /// Blackens the square of `size` pixels at (`x`, `y`); what lies outside is not drawn.
    fn fill(&mut self, x: u32, y: u32, size: u32) {
        for y in y..(y + size).min(self.height) {
            for x in x..(x + size).min(self.width) {
                let (Ok(x), Ok(y)) = (usize::try_from(x), usize::try_from(y)) else {
                    continue;
                };
                if let Some(octet) = self.bits.get_mut(y * self.row + x / 8) {
                    *octet &= !(0x80 >> (x % 8));
                }
            }
        }
    }

    fn png(&self) -> Result<Vec<u8>, Failure> {
        let mut file = Vec::new();
        let mut encoder = png::Encoder::new(&mut file, self.width, self.height);
        encoder.set_color(png::ColorType::Grayscale);
        encoder.set_depth(png::BitDepth::One);
        // 300 dpi in pixels per metre.
        encoder.set_pixel_dims(Some(png::PixelDimensions {
            xppu: 11_811,
            yppu: 11_811,
            unit: png::Unit::Meter,
        }));
        let failed = |error| Failure::refused(format_args!("cannot draw the label: {error}"));
        let mut writer = encoder.write_header().map_err(failed)?;
        writer.write_image_data(&self.bits).map_err(failed)?;
        writer.finish().map_err(failed)?;
        Ok(file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn label(with_secret: bool) -> Label {
        let code = ClaimCode::from_entropy([9; 12]);
        let secret = ClaimSecret::from_entropy([10; 20]);
        let device = "acme:SN1".parse().unwrap();
        let secret = with_secret.then_some(&secret);
        Label::new(Some("https://portal.example/"), &device, &code, secret).unwrap()
    }

    #[test]
    fn the_link_holds_code_and_secret_in_its_fragment_only() {
        let code = ClaimCode::from_entropy([9; 12]);
        let link = label(true).link().to_owned();
        assert_eq!(
            link,
            format!("https://portal.example/claim#code={code}&secret=AAAA-AAAA-AAAA-AAAA-AAAA")
        );
        assert!(!label(false).link().contains("secret"));
    }

    #[test]
    fn a_check_symbol_that_means_something_in_a_link_is_escaped() {
        let code = "0000-0000-0013-=".parse::<ClaimCode>().unwrap();
        assert_eq!(link(None, &code, None), "code=0000-0000-0013-%3D");
    }

    #[test]
    fn a_label_without_the_secret_shows_it_nowhere() {
        assert!(label(true).svg().contains("AAAA-AAAA"));
        let svg = label(false).svg();
        assert!(
            !svg.contains("AAAA-AAAA") && !svg.contains("SECRET"),
            "{svg}"
        );
        assert_ne!(label(true).png().unwrap(), label(false).png().unwrap());
    }

    #[test]
    fn svg_and_png_have_the_same_size_and_the_png_s_code_is_the_link() {
        let label = label(true);
        let (width, height) = label.size();
        let file = label.png().unwrap();
        let mut reader = png::Decoder::new(std::io::Cursor::new(file))
            .read_info()
            .unwrap();
        let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
        let info = reader.next_frame(&mut pixels).unwrap();
        assert_eq!((info.width, info.height), (width, height));
        assert!(
            label
                .svg()
                .contains(&format!("viewBox=\"0 0 {width} {height}\""))
        );
        // A camera reads the link.
        let grey = |x: usize, y: usize| {
            if pixels[y * info.line_size + x / 8] & (0x80 >> (x % 8)) == 0 {
                0
            } else {
                255
            }
        };
        let size = |pixels| usize::try_from(pixels).unwrap();
        let mut image =
            rqrr::PreparedImage::prepare_from_greyscale(size(width), size(height), grey);
        let [grid] = &image.detect_grids()[..] else {
            panic!("one QR code");
        };
        assert_eq!(grid.decode().unwrap().1, label.link());
        // The finder pattern's corner is dark, the quiet zone around it is not.
        let dark = |x: usize, y: usize| pixels[y * info.line_size + x / 8] & (0x80 >> (x % 8)) == 0;
        assert!(dark(32, 32) && !dark(31, 31) && !dark(0, 0));
    }
}
