// Methods of Mongoose OS that destroy data, with their losses: the page asks before it calls them.

const RESTART_LOSS = "The device restarts: it is offline for some seconds, what it was doing is interrupted, and what is not saved is lost.";
const FORMAT_LOSS = "Everything in the file system is lost, and cannot be brought back: the configuration, too, if it is kept there.";

const restartsIf = (params) => (params?.reboot ? RESTART_LOSS : null);

// By method in lower case, because devices ignore case.
const LOSSES = new Map(Object.entries({
  "sys.reboot": () => RESTART_LOSS,
  "config.save": restartsIf,
  "config.set": restartsIf,
  "fs.remove": () => "The file is deleted on the device, and cannot be brought back.",
  "fs.mkfs": () => FORMAT_LOSS,
  "fs.format": () => FORMAT_LOSS,
  "ota.revert": () => "The device restarts with the firmware that it had before. The one that it runs now is gone from it.",
}));

// Returns the losses of a call in words; null if none are known.
export const lossOf = (method, params) => LOSSES.get(method.toLowerCase())?.(params) ?? null;
