// The stream of what happens.

import {soon} from "./soon.js";

export default () => soon("Notifications", "The stream is not in the dashboard yet. mdash notify shows it.");
