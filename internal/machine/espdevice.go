package machine

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"lazaret/appliance"
)

// isMounted is the name of the block device mounted there, like dm-0; empty: none is.
func isMounted(dir string) string {
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		return ""
	}
	at, err := os.Readlink(fmt.Sprintf("/sys/dev/block/%d:%d", unix.Major(st.Dev), unix.Minor(st.Dev)))
	if err != nil {
		return ""
	}
	return filepath.Base(at)
}

// espDevice is the EFI system partition on the disk whose data partition is open, which is the
// block device data is made of: another disk that calls its partitions the same is another's.
// While none is open there must be a single one.
func espDevice(sys, data string) (string, error) {
	disk := ""
	if data != "" {
		under, err := filepath.Glob(filepath.Join(sys, "class/block", data, "slaves/*"))
		if err != nil || len(under) != 1 {
			return "", fmt.Errorf("finding the disk under %s: %d devices: %w", data, len(under), errors.Join(err, fs.ErrNotExist))
		}
		if disk, err = diskOf(under[0]); err != nil {
			return "", err
		}
	}
	list, err := filepath.Glob(filepath.Join(sys, "class/block/*"))
	if err != nil {
		return "", err
	}
	var found []string
	for _, p := range list {
		text, err := os.ReadFile(filepath.Join(p, "uevent"))
		if err != nil || !strings.Contains("\n"+string(text), "\nPARTNAME="+appliance.ESPName+"\n") {
			continue
		}
		if on, err := diskOf(p); err == nil && (disk == "" || on == disk) {
			found = append(found, filepath.Base(p))
		}
	}
	switch len(found) {
	case 0:
		return "", fmt.Errorf("no partition is called %s: %w", appliance.ESPName, fs.ErrNotExist)
	case 1:
		return filepath.Join("/dev", found[0]), nil
	}
	return "", fmt.Errorf("%s look the same: detach the disk that is not this machine's", strings.Join(found, ", "))
}

// diskOf is the disk of a partition: the directory that its own lies in.
func diskOf(partition string) (string, error) {
	at, err := filepath.EvalSymlinks(partition)
	return filepath.Dir(at), err
}
