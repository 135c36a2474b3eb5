// Parses a method's arguments from RPC.Describe: a format of Mongoose OS's json_scanf, such as {pin: %d, name: %Q}.

const ARGUMENT_KINDS = {
  d: ["integer", 0], i: ["integer", 0], u: ["integer", 0], x: ["integer", 0],
  f: ["number", 0], g: ["number", 0], e: ["number", 0],
  B: ["true or false", false],
  Q: ["text", ""], s: ["text", ""],
  V: ["base64", ""], H: ["hexadecimal", ""],
  T: ["any JSON", {}], M: ["any JSON", {}],
};

const ARGUMENT = /["']?([\w.-]+)["']?\s*:\s*%[-+0-9.*]*[hlLjzt]*([A-Za-z])/g;

const MAX_ARGUMENTS = 32; // arguments: more than any method has

// Returns [{name, type, example}, …]; empty if the format is not understood.
export function argumentsOf(format) {
  return [...format.slice(0, 2000).matchAll(ARGUMENT)].slice(0, MAX_ARGUMENTS).map(([, name, letter]) => {
    const [type, example] = ARGUMENT_KINDS[letter] ?? ["value", ""];
    return {name, type, example};
  });
}
