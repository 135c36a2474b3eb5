// Reads single files of a zip without reading all of it: PKWARE's APPNOTE, sections 4.3.6 to 4.3.16.

const END_SIZE = 22; // bytes of the record at the end, without its comment
const MAX_COMMENT = 65_535; // bytes
const MAX_DIRECTORY = 2 ** 20; // bytes read of the list of files: a firmware has under 10, of 100 bytes each
const END = 0x06054b50, ENTRY = 0x02014b50, LOCAL = 0x04034b50; // signatures

const STORED = 0, DEFLATED = 8;

const broken = (words) => new Error(`the zip is damaged: ${words}`);

// Whether a file begins like a zip.
export async function isZip(file) {
  const start = new Uint8Array(await file.slice(0, 2).arrayBuffer());
  return start[0] === 0x50 && start[1] === 0x4b;
}

// Reads [{path, size, packed, method, crc, start}, …] from the directory at the end.
export async function entries(file) {
  const tail = await view(file, Math.max(0, file.size - END_SIZE - MAX_COMMENT), file.size);
  let end = tail.byteLength - END_SIZE;
  const isEnd = () => tail.getUint32(end, true) === END && tail.getUint16(end + 20, true) === tail.byteLength - end - END_SIZE; // not in a comment
  while (end >= 0 && !isEnd()) end -= 1;
  if (end < 0) throw broken("its list of files is missing; the file may be cut off");
  const count = tail.getUint16(end + 10, true), size = tail.getUint32(end + 12, true), start = tail.getUint32(end + 16, true);
  if (size > MAX_DIRECTORY || start + size > file.size) throw broken("its list of files is not where it should be");
  const directory = await view(file, start, start + size);
  const found = [];
  let at = 0;
  for (let i = 0; i < count; i += 1) {
    if (at + 46 > directory.byteLength || directory.getUint32(at, true) !== ENTRY) throw broken("its list of files cannot be read");
    const name = directory.getUint16(at + 28, true), extra = directory.getUint16(at + 30, true), comment = directory.getUint16(at + 32, true);
    if (at + 46 + name > directory.byteLength) throw broken("its list of files cannot be read");
    found.push({
      path: new TextDecoder().decode(new Uint8Array(directory.buffer, at + 46, name)),
      method: directory.getUint16(at + 10, true),
      crc: directory.getUint32(at + 16, true),
      packed: directory.getUint32(at + 20, true),
      size: directory.getUint32(at + 24, true),
      start: directory.getUint32(at + 42, true),
    });
    at += 46 + name + extra + comment;
  }
  return found;
}

// Reads the bytes of one entry, at most `limit`.
export async function content(file, entry, limit) {
  if (entry.size > limit || entry.packed > limit) throw new Error(`${entry.path} is larger than ${limit} bytes`);
  const local = await view(file, entry.start, entry.start + 30);
  if (local.byteLength < 30 || local.getUint32(0, true) !== LOCAL) throw broken(`${entry.path} is not where it should be`);
  const start = entry.start + 30 + local.getUint16(26, true) + local.getUint16(28, true);
  const packed = file.slice(start, start + entry.packed);
  const data = await unpack(packed, entry, limit);
  if (data.length !== entry.size || crc32(data) !== entry.crc) throw broken(`${entry.path} does not have the content that it should have`);
  return data;
}

async function unpack(packed, {method, path}, limit) {
  if (method === STORED) return new Uint8Array(await packed.arrayBuffer());
  if (method !== DEFLATED) throw new Error(`${path} is packed in a way that cannot be read here`);
  const reader = packed.stream().pipeThrough(new DecompressionStream("deflate-raw")).getReader();
  const parts = [];
  let size = 0;
  try {
    for (;;) {
      const {done, value} = await reader.read();
      if (done) break;
      size += value.length;
      if (size > limit) throw new Error(`${path} is larger than ${limit} bytes`); // whatever the directory says
      parts.push(value);
    }
  } catch (error) {
    throw error instanceof TypeError ? broken(`${path} cannot be unpacked`) : error;
  }
  return new Uint8Array(await new Blob(parts).arrayBuffer());
}

const view = async (file, from, to) => new DataView(await file.slice(from, to).arrayBuffer());

const CRC_TABLE = Uint32Array.from({length: 256}, (_, byte) => {
  let value = byte;
  for (let bit = 0; bit < 8; bit += 1) value = value & 1 ? (value >>> 1) ^ 0xedb88320 : value >>> 1;
  return value;
});

function crc32(bytes) {
  let sum = 0xffffffff;
  for (const byte of bytes) sum = CRC_TABLE[(sum ^ byte) & 0xff] ^ (sum >>> 8);
  return (sum ^ 0xffffffff) >>> 0;
}

// Reads a firmware's zip: {manifest, entries, problems: [words, …]}; `problems` are the reasons for which the server
// will refuse the zip.
export async function readFirmware(file) {
  const all = await entries(file);
  const found = all.find(({path}) => /^([^/]+\/)?manifest\.json$/.test(path));
  if (!found) throw new Error("this zip holds no manifest.json: it is no firmware");
  let manifest;
  try {
    manifest = JSON.parse(new TextDecoder("utf-8", {fatal: true}).decode(await content(file, found, MAX_MANIFEST)));
  } catch (error) {
    if (error instanceof SyntaxError || error instanceof TypeError) throw new Error("its manifest.json is no JSON");
    throw error;
  }
  if (manifest === null || typeof manifest !== "object" || Array.isArray(manifest)) throw new Error("its manifest.json is no JSON object");
  const packed = all.filter(({method}) => method !== STORED);
  return {
    manifest,
    entries: all,
    problems: [
      ...["platform", "version", "build_id", "parts"].filter((key) => !Object.hasOwn(manifest, key)).map((key) => `the manifest has no ${key}`),
      ...(packed.length ? ["it is compressed, which devices cannot read: pack it without compression (zip -0)"] : []),
    ],
  };
}

const MAX_MANIFEST = 16_384; // bytes: the server takes no more, because a device holds the manifest in RAM
