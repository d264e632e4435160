package main

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"lazaret/appliance"
	"lazaret/appliance/claim"
	"lazaret/appliance/seed"
)

func (s *session) seed() *cobra.Command {
	c := &cobra.Command{Use: "seed", Short: "Seed disks, which tell a new machine how it is connected and set up"}
	c.AddCommand(s.seedMake())
	return c
}

// seeding is what seed make takes.
type seeding struct{ setup, network, out, instance, hostname string }

func (s *session) seedMake() *cobra.Command {
	var q seeding
	c := &cobra.Command{
		Use: "make -o FILE", Short: "Write a seed disk, and draw the claim code of the machine it is for",
		Long: `Write a seed disk: an ISO 9660 image labelled CIDATA, which is attached to a new
machine before its first start. It needs no gateway.

The setup has the keys that claiming asks for, and may be incomplete: whoever claims the
machine completes it. A claim code is drawn and printed, unless the setup brings one as
claim_code. The disk is worth as much as the code until the machine is claimed: it is written
to be read by you alone. Make one for each machine.`,
		Example: "  lazaretctl seed make -f setup.yaml --network network.yaml -o gw1.iso",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			code, err := makeSeed(q)
			if err != nil {
				return err
			}
			if s.json {
				_, err = fmt.Fprintf(cmd.OutOrStdout(), "{\"claim_code\": %q}\n", code)
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "wrote %s\nclaim code: %s\n", q.out, code)
			return err
		},
	}
	f := c.Flags()
	f.StringVarP(&q.setup, "file", "f", "", "setup in YAML or JSON")
	f.StringVar(&q.network, "network", "", "network in YAML, network-config version 2")
	f.StringVarP(&q.out, "output", "o", "", "file to write; must not be there")
	f.StringVar(&q.instance, "instance", "", "instance-id; a machine applies each once (default: drawn)")
	f.StringVar(&q.hostname, "hostname", "", "the machine's name, where the setup gives none")
	_ = c.MarkFlagRequired("output") // it was defined above
	return c
}

// userHeader is the first line of user-data.
const userHeader = "#lazaret\n"

// makeSeed writes the disk and returns its claim code.
func makeSeed(q seeding) (string, error) {
	u, err := readUser(q.setup)
	if err != nil {
		return "", err
	}
	f := seed.Files{UserData: u.text}
	if q.network != "" {
		if f.NetworkConfig, err = os.ReadFile(q.network); err != nil {
			return "", err
		}
	}
	if q.instance == "" {
		var b [8]byte
		rand.Read(b[:])
		q.instance = "lazaret-" + hex.EncodeToString(b[:])
	}
	f.MetaData = fmt.Appendf(nil, "instance-id: %q\n", q.instance)
	if q.hostname != "" {
		f.MetaData = fmt.Appendf(f.MetaData, "local-hostname: %q\n", q.hostname)
	}
	read := seed.Parse(f)
	if faults := u.faults(read.Faults); len(faults) > 0 {
		return "", refusedSeed(faults)
	}
	if read.Code == "" {
		f.UserData = fmt.Appendf(f.UserData, "claim_code: %s\n", claim.DrawCode().String())
		if read = seed.Parse(f); len(read.Faults) > 0 { // as the machine will
			return "", refusedSeed(read.Faults)
		}
	}
	code, err := claim.ParseCode(read.Code)
	if err != nil {
		return "", fmt.Errorf("claim_code: %w", err)
	}
	return code.String(), writeSeed(q.out, f)
}

func refusedSeed(faults []string) error {
	return errors.New("the machine would not take this seed:\n" + strings.Join(faults, "\n"))
}

// user is user-data, and the file that it is made of.
type user struct {
	text  []byte
	file  string // empty: there is none
	added int    // lines before the file's own
	json  bool   // a value of its own, which takes no more lines
	code  string // that the file brings
	err   error  // of the setup
}

// readUser makes user-data of a setup. The file goes in as it is written.
func readUser(file string) (user, error) {
	u := user{text: []byte(userHeader), file: file}
	if file == "" {
		return u, nil
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return u, err
	}
	_, u.err = appliance.ReadSetup(text, map[string]*string{"claim_code": &u.code})
	u.json = bytes.HasPrefix(bytes.TrimSpace(text), []byte("{"))
	own := bytes.TrimPrefix(text, u.text)
	if len(own) == len(text) {
		u.added = 1
	}
	u.text = append(append(u.text, own...), '\n')
	return u, nil
}

// faults are those that the machine would find, as of the file, and what else is wrong with it.
func (u user) faults(machines []string) []string {
	var out []string
	own, code := false, false // the machine finds some of the file, and of its code
	for _, fault := range machines {
		own = own || strings.HasPrefix(fault, "user-data:")
		code = code || strings.Contains(fault, " claim_code: ")
		out = append(out, inFile(fault, u.file, u.added))
	}
	if u.err != nil && !own {
		out = append(out, fmt.Sprintf("%s:\n%v", u.file, u.err))
	}
	if u.code != "" && !code {
		if _, err := claim.ParseCode(u.code); err != nil {
			out = append(out, fmt.Sprintf("%s: claim_code: %v", u.file, err))
		}
	}
	if u.json && u.code == "" {
		out = append(out, fmt.Sprintf(`%s: a setup in JSON has to bring its "claim_code"; write it in YAML to have one drawn`, u.file))
	}
	return out
}

// inFile is a fault of user-data as one of the file that it was made of, whose lines come
// after the added ones.
func inFile(fault, file string, added int) string {
	rest, is := strings.CutPrefix(fault, "user-data:")
	if !is || file == "" {
		return fault
	}
	number, text, numbered := strings.Cut(rest, ":")
	n, err := strconv.Atoi(number)
	if !numbered || err != nil || n <= added {
		return file + ":" + rest
	}
	return fmt.Sprintf("%s:%d:%s", file, n-added, text)
}

func writeSeed(path string, f seed.Files) error {
	out, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	if err := errors.Join(seed.Write(out, f), out.Sync(), out.Close()); err != nil {
		return errors.Join(err, os.Remove(path))
	}
	return nil
}
