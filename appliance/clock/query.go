package clock

import _ "github.com/beevik/ntp" // asks servers
