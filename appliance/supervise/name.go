package supervise

import (
	"os"
	"strings"
)

// prefix is what parts are called by, before their names.
const prefix = "lazaretd-"

// TakeName gives a process that a Supervisor started the name it was called by, like
// lazaretd-dataplane, of which the kernel keeps 15 bytes (prctl(2), PR_SET_NAME): lists of
// processes would call it exe, for the link that it was started by. Other processes keep
// theirs. It is called before anything is given up; without it everything works.
func TakeName() {
	if strings.HasPrefix(os.Args[0], prefix) {
		_ = os.WriteFile("/proc/self/comm", []byte(os.Args[0]), 0) // of the first thread, which prctl could not tell
	}
}
