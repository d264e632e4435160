package main

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
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
	var f seed.Files
	user := []byte(userHeader)
	if q.setup != "" {
		text, err := os.ReadFile(q.setup)
		if err != nil {
			return "", err
		}
		var code string
		if _, err := appliance.ReadSetup(text, map[string]*string{"claim_code": &code}); err != nil {
			return "", fmt.Errorf("%s:\n%w", q.setup, err)
		}
		// The file goes in as it is written; JSON is a value of its own and takes no more lines.
		if bytes.HasPrefix(bytes.TrimSpace(text), []byte("{")) && code == "" {
			return "", fmt.Errorf(`%s: a setup in JSON has to bring its "claim_code"; write it in YAML to have one drawn`, q.setup)
		}
		user = append(append(user, bytes.TrimPrefix(text, user)...), '\n')
	}
	if q.network != "" {
		text, err := os.ReadFile(q.network)
		if err != nil {
			return "", err
		}
		f.NetworkConfig = text
	}
	f.UserData = user
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
	if read.Code == "" && len(read.Faults) == 0 {
		f.UserData = fmt.Appendf(f.UserData, "claim_code: %s\n", claim.DrawCode().String())
		read = seed.Parse(f) // as the machine will
	}
	if len(read.Faults) > 0 {
		return "", errors.New("the machine would not take this seed:\n" + strings.Join(read.Faults, "\n"))
	}
	code, err := claim.ParseCode(read.Code)
	if err != nil {
		return "", fmt.Errorf("claim_code: %w", err)
	}
	return code.String(), writeSeed(q.out, f)
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
