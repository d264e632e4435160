package agent

import (
	"context"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"lazaret/enroll/cmp"
	"lazaret/internal/version"
)

// postureTime bounds all collectors together; what is not known by then is left out, and
// a missing fact never counts as good.
const postureTime = 5 * time.Second

// posture collects what this device can say of itself.
func posture(ctx context.Context) map[string]string {
	ctx, cancel := context.WithTimeout(ctx, postureTime)
	defer cancel()
	done := make(chan map[string]string, 1)
	go func() { done <- collect("/") }() // ends by itself: it reads a few small files
	select {
	case facts := <-done:
		return facts
	case <-ctx.Done():
		return map[string]string{"agent.version": version.Number, "agent.posture": "timed out"}
	}
}

// claim is what this device says of itself when it enrolls. A one-time password may want
// it to say something in particular; it is never a credential.
func claim(ctx context.Context) cmp.Claim {
	facts := posture(ctx)
	serial, _ := os.ReadFile("/sys/class/dmi/id/product_serial") // readable by root only; else unsaid
	return cmp.Claim{Version: 1, Platform: facts["os"], Serial: strings.TrimSpace(string(serial))}
}

// collect reads the facts of the system whose root directory is given.
func collect(root string) map[string]string {
	facts := map[string]string{"agent.version": version.Number, "os": runtime.GOOS, "arch": runtime.GOARCH}
	if text, err := os.ReadFile(filepath.Join(root, "etc/os-release")); err == nil {
		release := parseRelease(string(text))
		for from, to := range map[string]string{"ID": "os.distribution", "VERSION_ID": "os.version"} {
			if release[from] != "" {
				facts[to] = release[from]
			}
		}
	}
	if encrypted, known := diskEncrypted(root); known {
		facts["disk.encrypted"] = encrypted
	}
	return facts
}

// parseRelease reads os-release(5).
func parseRelease(text string) map[string]string {
	out := map[string]string{}
	for line := range strings.Lines(text) {
		k, v, ok := strings.Cut(strings.TrimSpace(line), "=")
		if ok && len(v) < 200 {
			out[k] = strings.Trim(v, `"'`)
		}
	}
	return out
}

// diskEncrypted says whether the root file system lies on a dm-crypt device, following
// the layers of the device mapper; known is false where that cannot be read.
func diskEncrypted(root string) (answer string, known bool) {
	text, err := os.ReadFile(filepath.Join(root, "proc/self/mountinfo"))
	if err != nil {
		return "", false
	}
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line)
		if len(f) > 4 && f[4] == "/" {
			block := filepath.Join(root, "sys/dev/block", f[2])
			if _, err := os.Stat(block); err != nil {
				return "", false
			}
			if crypt(block, 0) {
				return "yes", true
			}
			return "no", true
		}
	}
	return "", false
}

// crypt looks for a dm-crypt layer in a block device and in those below it.
func crypt(block string, depth int) bool {
	uuid, err := os.ReadFile(filepath.Join(block, "dm/uuid"))
	if err == nil && strings.HasPrefix(string(uuid), "CRYPT-") {
		return true
	}
	below, err := os.ReadDir(filepath.Join(block, "slaves"))
	if err != nil || depth > 8 {
		return false
	}
	for _, b := range below {
		if crypt(filepath.Join(block, "slaves", b.Name()), depth+1) {
			return true
		}
	}
	return false
}
