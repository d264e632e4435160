package machine

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"lazaret/appliance"
	"lazaret/appliance/modules"
)

// wanted are the modules that no device asks for: the kernel would call for most of them
// itself, by a program that there is none of here.
var wanted = []string{
	"wireguard", "nf_tables", "nft_ct", "nft_masq", "nft_chain_nat", "nft_limit", "nf_conntrack_netlink",
	"dm_mod", "dm_crypt", "xts", "aes_generic", "crc32c_generic", "ext4",
	"efivarfs", "vfat", "nls_cp437", "nls_ascii",
}

// newLoader reads which modules the image has for the kernel that runs.
func newLoader(log *slog.Logger) (*modules.Loader, error) {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return nil, fmt.Errorf("asking for the kernel's release: %w", err)
	}
	dir := filepath.Join("/", appliance.ModuleDir, unix.ByteSliceToString(name.Release[:]))
	f, err := os.Open(filepath.Join(dir, appliance.ModuleIndexName))
	if err != nil {
		return nil, fmt.Errorf("reading the index of modules: %w", err)
	}
	index, err := appliance.ParseModuleIndex(f)
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, fmt.Errorf("reading the index of modules: %w", err)
	}
	return modules.New(modules.Config{Index: index, Log: log, Dir: dir}), nil
}

// loadModules loads what devices there are need, and goes on as more come. What no device
// asks for is loaded while slow drivers still look for theirs.
func (m *Machine) loadModules(ctx context.Context) error {
	err := m.loader.Look()
	if err := m.loader.Load(wanted...); err != nil {
		return err
	}
	if err := errors.Join(err, m.loader.Devices()); err != nil {
		m.log.Warn("some devices have no working module", "error", err)
	}
	m.keep(ctx, "search for devices", m.loader.Run)
	return nil
}
