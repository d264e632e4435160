// Package notify tells the service manager how a process does.
package notify

import (
	"net"
	"os"
	"strings"
)

// Manager tells the service manager how this process does, where there is one: READY=1,
// WATCHDOG=1 (sd_notify(3)).
func Manager(state string) {
	path := os.Getenv("NOTIFY_SOCKET")
	if path == "" {
		return
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: strings.Replace(path, "@", "\x00", 1), Net: "unixgram"})
	if err != nil {
		return
	}
	defer conn.Close()
	_, _ = conn.Write([]byte(state)) // nobody listening is the manager's affair
}

// Ready tells it that the process is.
func Ready() { Manager("READY=1") }
