// Oneself.

import {soon} from "./soon.js";

export default () => soon("Profile", "Your profile is not in the dashboard yet.");
