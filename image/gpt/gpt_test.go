package gpt

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"lazaret/internal/testneed"
)

const mib = 1 << 20

func parts() []Partition {
	return []Partition{
		{Type: TypeESP, GUID: "6c617a61-7265-4074-8000-000000000002", Name: "esp", Start: mib, Size: 4 * mib},
		{Type: TypeData, GUID: "6c617a61-7265-4074-8000-000000000003", Name: "data", Start: 5 * mib, Size: mib},
	}
}

// TestSfdiskReads: sfdisk finds no fault, and the partitions where they were put.
func TestSfdiskReads(t *testing.T) {
	sfdisk := testneed.Program(t, "sfdisk")
	name := filepath.Join(t.TempDir(), "disk")
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(8 * mib); err != nil {
		t.Fatal(err)
	}
	if err := Write(f, 8*mib, "6c617a61-7265-4074-8000-000000000001", parts()); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(sfdisk, "--verify", name).CombinedOutput()
	if err != nil || !strings.Contains(string(out), "No errors detected") {
		t.Errorf("sfdisk --verify: %v: %s", err, out)
	}
	out, err = exec.Command(sfdisk, "--json", name).Output()
	if err != nil {
		t.Fatal(err)
	}
	var got struct {
		Table struct {
			Label, ID  string
			LastLBA    int64
			Partitions []struct {
				Start, Size      int64
				Type, UUID, Name string
			}
		} `json:"partitiontable"`
	}
	if err := json.Unmarshal(out, &got); err != nil {
		t.Fatal(err)
	}
	p := got.Table.Partitions
	if got.Table.Label != "gpt" || got.Table.ID != "6C617A61-7265-4074-8000-000000000001" || got.Table.LastLBA != 8*mib/512-34 || len(p) != 2 ||
		p[0].Start != 2048 || p[0].Size != 8192 || p[0].Name != "esp" || p[0].Type != strings.ToUpper(TypeESP) ||
		p[1].Start != 10240 || p[1].Size != 2048 || p[1].Name != "data" || p[1].UUID != "6C617A61-7265-4074-8000-000000000003" {
		t.Errorf("sfdisk reads %s", out)
	}
}

func TestRefusesWhatDoesNotFit(t *testing.T) {
	change := map[string]func(p []Partition){
		"overlap":     func(p []Partition) { p[1].Start = 4 * mib },
		"behind":      func(p []Partition) { p[1].Size = 3 * mib },
		"in front":    func(p []Partition) { p[0].Start = 512 },
		"part sector": func(p []Partition) { p[0].Size++ },
		"no GUID":     func(p []Partition) { p[0].GUID = "x" },
		"zero GUID":   func(p []Partition) { p[0].GUID = "00000000-0000-0000-0000-000000000000" },
		"long name":   func(p []Partition) { p[0].Name = strings.Repeat("x", 37) },
	}
	f, err := os.Create(filepath.Join(t.TempDir(), "disk"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for name, c := range change {
		p := parts()
		c(p)
		if err := Write(f, 8*mib, "6c617a61-7265-4074-8000-000000000001", p); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
