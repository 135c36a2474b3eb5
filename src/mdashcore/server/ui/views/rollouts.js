// Staged updates of many devices.

import {soon} from "./soon.js";

export default () => soon("Rollouts", "Rollouts are not in the dashboard yet.");
