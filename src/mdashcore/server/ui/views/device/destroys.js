// Methods of Mongoose OS that are known to destroy something, and what: they are asked about before they are called.

const RESTART = "The device restarts: it is offline for some seconds, what it was doing is interrupted, and what is not saved is lost.";
const FORMAT = "Everything in the file system is lost, and cannot be brought back: the configuration, too, if it is kept there.";

const restartsIf = (params) => (params?.reboot ? RESTART : null);

// By method, in small letters: devices do not tell large from small ones.
const LOSSES = new Map(Object.entries({
  "sys.reboot": () => RESTART,
  "config.save": restartsIf,
  "config.set": restartsIf,
  "fs.remove": () => "The file is deleted on the device, and cannot be brought back.",
  "fs.mkfs": () => FORMAT,
  "fs.format": () => FORMAT,
  "ota.revert": () => "The device restarts with the firmware that it had before. The one that it runs now is gone from it.",
}));

// What a call would lose, in words; null where nothing is known.
export const lossOf = (method, params) => LOSSES.get(method.toLowerCase())?.(params) ?? null;
