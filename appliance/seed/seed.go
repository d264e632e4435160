package seed

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"regexp"
	"slices"
	"strings"
	"sync"

	"lazaret/appliance"
	"lazaret/internal/form"
)

// Names of the files of a seed (NoCloud).
const (
	metaData      = "meta-data"
	userData      = "user-data"
	networkConfig = "network-config"
)

// maxFile bounds each of them, in bytes.
const maxFile = 64 << 10

// header is the first line of user-data that is for this machine.
const header = "#lazaret"

// Seed is what a seed disk says. It is whole or, with Faults, holds nothing else but Instance.
type Seed struct {
	Instance string             // instance-id: a seed is applied once for each; empty: it could not be read
	Setup    appliance.Setup    // perhaps incomplete, and without Network; Name is local-hostname's where it gives none
	Code     string             // claim_code: who knows it may claim the machine; empty: the machine makes one
	Network  *appliance.Network // of network-config, or of the setup; nil: none
	Faults   []string           // everything that is wrong, as "file:line: sentence", for the screen
}

// Format implements fmt.Formatter: whatever the verb, the claim code is not shown.
func (s Seed) Format(f fmt.State, _ rune) {
	fmt.Fprintf(f, "seed %q with %d faults", s.Instance, len(s.Faults))
}

// LogValue implements slog.LogValuer without the claim code.
func (s Seed) LogValue() slog.Value { return slog.StringValue(fmt.Sprint(s)) }

// Files are the contents of a seed disk.
type Files struct {
	MetaData, UserData []byte
	NetworkConfig      []byte // nil: none
}

// Read reads a seed from a mounted disk. An error means that files could not be read at all;
// what is wrong with them is in Faults. Symbolic links are not followed.
func Read(files fs.FS) (Seed, error) {
	var f Files
	var faults []string
	for _, one := range []struct {
		name string
		to   *[]byte
		must bool
	}{{metaData, &f.MetaData, true}, {userData, &f.UserData, true}, {networkConfig, &f.NetworkConfig, false}} {
		text, fault, err := read(files, one.name, one.must)
		if err != nil {
			return Seed{}, fmt.Errorf("reading the seed: %w", err)
		}
		if fault != "" {
			faults = append(faults, one.name+": "+fault)
			continue
		}
		*one.to = text
	}
	s := Parse(f)
	if len(faults) > 0 {
		// What is missing is said once, and not also that it is empty.
		for _, fault := range s.Faults {
			name, _, _ := strings.Cut(fault, ":")
			if len(f.of(name)) > 0 {
				faults = append(faults, fault)
			}
		}
		s = Seed{Instance: s.Instance, Faults: faults}
	}
	return s, nil
}

func (f Files) of(name string) []byte {
	return map[string][]byte{metaData: f.MetaData, userData: f.UserData, networkConfig: f.NetworkConfig}[name]
}

// read reads one file, or says what is wrong with it.
func read(files fs.FS, name string, must bool) (text []byte, fault string, err error) {
	info, err := fs.Lstat(files, name)
	if errors.Is(err, fs.ErrNotExist) {
		if must {
			return nil, "it is missing", nil
		}
		return nil, "", nil
	}
	if err != nil {
		return nil, "", err
	}
	if !info.Mode().IsRegular() {
		return nil, "it is not a file", nil
	}
	file, err := files.Open(name)
	if err != nil {
		return nil, "", err
	}
	defer file.Close()
	text, err = io.ReadAll(io.LimitReader(file, maxFile+1))
	if err != nil {
		return nil, "", err
	}
	if len(text) > maxFile {
		return nil, fmt.Sprintf("it has more than %d bytes", maxFile), nil
	}
	return text, "", nil
}

// claimCode is what a claim code looks like; whoever takes claims looks at its check symbol.
var claimCode = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[0-9A-Za-z]{21}$`) })

var codeKey = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`(?m)^[ \t{,]*"?claim_code"?[ \t]*:`) })

// lineOf is the line of the first match, from 1; 0: there is none.
func lineOf(text []byte, re *regexp.Regexp) int {
	at := re.FindIndex(text)
	if at == nil {
		return 0
	}
	return 1 + bytes.Count(text[:at[1]], []byte("\n"))
}

var instanceID = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[!-~]{1,128}$`) })

// Parse reads a seed's files.
func Parse(f Files) Seed {
	var s Seed
	var faults []string
	fail := func(file string, err error) {
		var list appliance.Faults
		if !errors.As(err, &list) {
			faults = append(faults, file+": "+err.Error())
			return
		}
		for _, one := range list {
			if one.Line == 0 {
				faults = append(faults, file+": "+one.Text)
			} else {
				faults = append(faults, fmt.Sprintf("%s:%d: %s", file, one.Line, one.Text))
			}
		}
	}
	var hostname string
	if err := appliance.ReadKeys(f.MetaData, map[string]*string{"instance-id": &s.Instance, "local-hostname": &hostname}); err != nil {
		fail(metaData, err)
		s.Instance = ""
	} else if !instanceID().MatchString(s.Instance) {
		fail(metaData, errors.New("instance-id: give one, of up to 128 characters without spaces"))
		s.Instance = ""
	}
	if hostname != "" && !form.HostName(hostname) {
		fail(metaData, errors.New("local-hostname: it is no host's name"))
	}
	if err := s.user(f.UserData); err != nil {
		fail(userData, err)
	}
	if f.NetworkConfig != nil && s.Network != nil {
		fail(networkConfig, errors.New("user-data has a network, too: leave one away"))
	} else if f.NetworkConfig != nil {
		n, err := appliance.ParseNetwork(f.NetworkConfig)
		if err != nil {
			fail(networkConfig, err)
		}
		s.Network = &n
	}
	if len(faults) > 0 {
		return Seed{Instance: s.Instance, Faults: faults}
	}
	if s.Setup.Name == "" && hostname != "" {
		first, _, _ := strings.Cut(hostname, ".")
		s.Setup.Name = strings.ToLower(first)
	}
	return s
}

// user reads user-data.
func (s *Seed) user(text []byte) error {
	first, _, _ := bytes.Cut(text, []byte("\n"))
	switch line := strings.TrimRight(string(first), " \r"); {
	case len(text) == 0:
		return errors.New("it is empty; its first line should be " + header)
	case line == "#cloud-config" || strings.HasPrefix(line, "#cloud-") || strings.HasPrefix(line, "#include"):
		return errors.New("it is cloud-config, which nothing here runs: write the keys of a setup below a first line " + header)
	case strings.HasPrefix(line, "#!"):
		return errors.New("it is a script, and nothing here runs scripts: write the keys of a setup below a first line " + header)
	case line != header:
		return errors.New("its first line should be " + header)
	}
	if len(bytes.TrimSpace(text[len(first):])) == 0 {
		return nil // it is all left to whoever claims the machine
	}
	var code string
	setup, err := appliance.ReadSetup(text, map[string]*string{"claim_code": &code})
	var faults appliance.Faults
	if err != nil && !errors.As(err, &faults) {
		return err
	}
	if code != "" && !claimCode().MatchString(strings.NewReplacer("-", "", " ", "").Replace(code)) {
		faults = append(faults, appliance.Fault{Line: lineOf(text, codeKey()), Text: "claim_code: it is none; lazaretctl seed make draws one"})
	}
	if len(faults) > 0 {
		slices.SortStableFunc(faults, func(a, b appliance.Fault) int { return cmp.Compare(a.Line, b.Line) })
		return faults
	}
	s.Network, setup.Network = setup.Network, nil
	s.Setup, s.Code = setup, code
	return nil
}
