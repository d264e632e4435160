package posture

import (
	"context"
	"fmt"

	"golang.org/x/sys/windows"
	winreg "golang.org/x/sys/windows/registry"
)

// system are the collectors of a Windows device.
func system() []Collector {
	dir, err := windows.GetSystemDirectory()
	if err != nil || len(dir) < 2 {
		return []Collector{{"agent", agent}, {"system", func(context.Context) (map[string]string, error) {
			return nil, fmt.Errorf("finding Windows' own directory: %w", err)
		}}}
	}
	return microsoft{run: run, registry: localMachine{}, system: dir, drive: dir[:2]}.collectors()
}

// localMachine is the registry's HKEY_LOCAL_MACHINE.
type localMachine struct{}

func open(key string) (winreg.Key, error) {
	k, err := winreg.OpenKey(winreg.LOCAL_MACHINE, key, winreg.QUERY_VALUE|winreg.WOW64_64KEY)
	if err != nil {
		return 0, fmt.Errorf(`reading HKLM\%s: %w`, key, err)
	}
	return k, nil
}

func (localMachine) number(key, name string) (uint64, error) {
	k, err := open(key)
	if err != nil {
		return 0, err
	}
	defer k.Close()
	n, _, err := k.GetIntegerValue(name)
	if err != nil {
		return 0, fmt.Errorf(`reading HKLM\%s, %s: %w`, key, name, err)
	}
	return n, nil
}

func (localMachine) text(key, name string) (string, error) {
	k, err := open(key)
	if err != nil {
		return "", err
	}
	defer k.Close()
	s, _, err := k.GetStringValue(name)
	if err != nil {
		return "", fmt.Errorf(`reading HKLM\%s, %s: %w`, key, name, err)
	}
	return s, nil
}
