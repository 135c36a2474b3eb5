// Units of values, where their names say them.

const UNIT_WORDS = new Map(Object.entries({
  c: "°C", degc: "°C", celsius: "°C", f: "°F", fahrenheit: "°F", k: "K", kelvin: "K",
  ms: "ms", s: "s", sec: "s", secs: "s", seconds: "s", min: "min", minutes: "min", h: "h", hours: "h", us: "µs",
  percent: "%", pct: "%", pc: "%", v: "V", volt: "V", volts: "V", mv: "mV", a: "A", ma: "mA", amps: "A", w: "W", kw: "kW", watt: "W", watts: "W",
  wh: "Wh", kwh: "kWh", hz: "Hz", khz: "kHz", mhz: "MHz", pa: "Pa", hpa: "hPa", kpa: "kPa", bar: "bar", mbar: "mbar",
  m: "m", cm: "cm", mm: "mm", km: "km", kmh: "km/h", g: "g", kg: "kg", l: "l", ml: "ml", m3: "m³", lux: "lx", lx: "lx", ppm: "ppm", ppb: "ppb",
  db: "dB", dbm: "dBm", rpm: "rpm", bytes: "B", kb: "kB", kib: "KiB", mb: "MB",
}));
const WHOLE_NAMES = new Map([["rssi", "dBm"], ["uptime", "s"], ["humidity", "%"], ["lux", "lx"]]);
const KIB = {unit: "KiB", divide: 1024, format: (value) => value.toFixed(1)};

// {unit, divide?, format?} of a path: by the last word of its last key, such as "supply_mv" or "tempC".
export function unitOf(path) {
  const key = String(path.at(-1));
  if (/^(ram|fs|heap)_(free|total|size|min_free|lwm)$/.test(key)) return KIB;
  if (WHOLE_NAMES.has(key.toLowerCase())) return {unit: WHOLE_NAMES.get(key.toLowerCase())};
  const word = /(?:[_\-. ]([A-Za-z]+3?)|[a-z]([A-Z][A-Za-z]*))$/.exec(key);
  return {unit: (word && UNIT_WORDS.get((word[1] ?? word[2]).toLowerCase())) ?? ""};
}
