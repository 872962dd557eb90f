//! A file that `torch.load(weights_only=True)` reads: an archive of stored entries, as torch itself writes them.
//!
//! Invariant: equal arguments give equal bytes.

/// Storages begin at a multiple of it, as torch's do, so that they can be mapped.
const ALIGNMENT: usize = 64;
/// Where every entry lies.
const ROOT: &str = "archive";

/// A float tensor of the state dictionary.
#[derive(Debug, Clone)]
pub struct Part<'a> {
    /// Name of the tensor.
    pub name: &'a str,
    /// Shape of the tensor.
    pub shape: &'a [usize],
    /// Row-major; as many as the shape says.
    pub values: &'a [f32],
}

/// The bytes of `{'model': OrderedDict of the parts, key: text, …}`.
pub fn write(parts: &[Part<'_>], texts: &[(&str, &str)]) -> Vec<u8> {
    let mut archive = Archive::default();
    archive.add("data.pkl", &pickle(parts, texts));
    archive.add("byteorder", b"little");
    for (i, part) in parts.iter().enumerate() {
        let bytes: Vec<u8> = part.values.iter().flat_map(|v| v.to_le_bytes()).collect();
        archive.add(&format!("data/{i}"), &bytes);
    }
    archive.add("version", b"3\n");
    archive.finish()
}

fn pickle(parts: &[Part<'_>], texts: &[(&str, &str)]) -> Vec<u8> {
    let mut out = b"\x80\x02}(".to_vec();
    text(&mut out, "model");
    out.extend(ORDERED);
    out.push(b'(');
    for (i, part) in parts.iter().enumerate() {
        text(&mut out, part.name);
        out.extend(b"ctorch._utils\n_rebuild_tensor_v2\n((");
        text(&mut out, "storage");
        out.extend(b"ctorch\nFloatStorage\n");
        text(&mut out, &i.to_string());
        text(&mut out, "cpu");
        number(&mut out, part.values.len());
        out.extend(b"tQ");
        number(&mut out, 0);
        tuple(&mut out, part.shape);
        tuple(&mut out, &strides(part.shape));
        out.push(0x89);
        out.extend(ORDERED);
        out.extend(b"tR");
    }
    out.push(b'u');
    for (key, value) in texts {
        text(&mut out, key);
        text(&mut out, value);
    }
    out.extend(b"u.");
    out
}

/// `OrderedDict()`.
const ORDERED: &[u8] = b"ccollections\nOrderedDict\n)R";

fn text(out: &mut Vec<u8>, text: &str) {
    out.push(b'X');
    out.extend((text.len() as u32).to_le_bytes());
    out.extend(text.as_bytes());
}

fn number(out: &mut Vec<u8>, number: usize) {
    match i32::try_from(number) {
        Ok(number) => {
            out.push(b'J');
            out.extend(number.to_le_bytes());
        }
        Err(_) => {
            out.extend([0x8a, 8]);
            out.extend((number as u64).to_le_bytes());
        }
    }
}

fn tuple(out: &mut Vec<u8>, sizes: &[usize]) {
    out.push(b'(');
    for &size in sizes {
        number(out, size);
    }
    out.push(b't');
}

fn strides(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1; shape.len()];
    for i in (1..shape.len()).rev() {
        strides[i - 1] = strides[i] * shape[i].max(1);
    }
    strides
}

#[derive(Default)]
struct Archive {
    bytes: Vec<u8>,
    directory: Vec<u8>,
    count: u16,
}

impl Archive {
    fn add(&mut self, name: &str, content: &[u8]) {
        let name = format!("{ROOT}/{name}");
        let local = self.bytes.len() as u32;
        let data = self.bytes.len() + 30 + name.len();
        // The extra field is torch's padding: its own tag, its length, zeros.
        let padding = (ALIGNMENT - (data + 4) % ALIGNMENT) % ALIGNMENT;
        let mut common = Vec::new();
        common.extend([20, 0, 0, 0, 0, 0, 0, 0, 0x21, 0]);
        common.extend(crc32(content).to_le_bytes());
        common.extend((content.len() as u32).to_le_bytes());
        common.extend((content.len() as u32).to_le_bytes());
        common.extend((name.len() as u16).to_le_bytes());
        self.bytes.extend(b"PK\x03\x04");
        self.bytes.extend(&common);
        self.bytes.extend((padding as u16 + 4).to_le_bytes());
        self.bytes.extend(name.as_bytes());
        self.bytes.extend(b"FB");
        self.bytes.extend((padding as u16).to_le_bytes());
        self.bytes.resize(self.bytes.len() + padding, 0);
        self.bytes.extend(content);

        self.directory.extend(b"PK\x01\x02\x14\0");
        self.directory.extend(&common);
        // No extra field, no comment, first disk, no attributes.
        self.directory.extend([0; 12]);
        self.directory.extend(local.to_le_bytes());
        self.directory.extend(name.as_bytes());
        self.count += 1;
    }

    fn finish(mut self) -> Vec<u8> {
        let begin = self.bytes.len() as u32;
        self.bytes.extend(&self.directory);
        self.bytes.extend(b"PK\x05\x06\0\0\0\0");
        self.bytes.extend(self.count.to_le_bytes());
        self.bytes.extend(self.count.to_le_bytes());
        self.bytes
            .extend((self.directory.len() as u32).to_le_bytes());
        self.bytes.extend(begin.to_le_bytes());
        self.bytes.extend([0; 2]);
        self.bytes
    }
}

/// The checksum of zip archives.
pub(super) fn crc32(bytes: &[u8]) -> u32 {
    const TABLE: [u32; 256] = table();
    !bytes.iter().fold(!0, |crc, &byte| {
        (crc >> 8) ^ TABLE[usize::from(crc as u8 ^ byte)]
    })
}

const fn table() -> [u32; 256] {
    let mut table = [0; 256];
    let mut i = 0;
    while i < 256 {
        let mut crc = i as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 {
                (crc >> 1) ^ 0xedb8_8320
            } else {
                crc >> 1
            };
            bit += 1;
        }
        table[i] = crc;
        i += 1;
    }
    table
}
