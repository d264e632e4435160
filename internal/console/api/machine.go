package api

import (
	"time"

	"lazaret/appliance"
)

// Machine is how the machine under the gateway does.
type Machine struct {
	appliance.Status
}

// MachineNetwork is how the machine is connected.
type MachineNetwork struct {
	Confirmed appliance.Network  `json:"confirmed"`
	Trying    *appliance.Network `json:"trying,omitempty"`
	Until     time.Time          `json:"until,omitzero"` // when the confirmed one comes back
}

// MachineTrial asks for another network. It is taken back unless it is confirmed.
type MachineTrial struct {
	Network appliance.Network `json:"network"`
	Seconds int               `json:"seconds,omitempty"` // 30 to 900; 0: 120
}

// MachineTrying says until when a network may be confirmed.
type MachineTrying struct {
	Until time.Time `json:"until"`
}

// MachineUpdates are how the machine keeps itself up to date.
type MachineUpdates struct {
	Channel   string `json:"channel,omitempty"`   // URL of the channel's directory; empty: by upload alone
	Automatic bool   `json:"automatic,omitempty"` // install in the window; false: tell, and wait for a person
	Window    string `json:"window,omitempty"`    // "Sun 02:00-05:00" in UTC; empty: 02:00-05:00
}

// MachineStaged is an update that the next start tries.
type MachineStaged struct {
	Version   string `json:"version"`
	File      string `json:"file"`
	Notes     string `json:"notes,omitempty"`
	Rebooting bool   `json:"rebooting,omitempty"`
}

// MachinePassphrase is what is to keep the key of the data partition.
type MachinePassphrase struct {
	Passphrase string `json:"passphrase"` // 12 characters at least
}

// MachineSeal asks for the key to be sealed to the TPM.
type MachineSeal struct {
	PIN string `json:"pin,omitempty"` // asked for at every start; 6 characters at least. Empty: none
}

// MachineRecovery is a recovery passphrase. It is told once.
type MachineRecovery struct {
	Recovery string `json:"recovery,omitempty"` // empty: the one from before stays
}

// MachineReport is what the machine's check of itself found.
type MachineReport struct {
	appliance.Report
}

// MachineReset says which gateway is to be made nobody's.
type MachineReset struct {
	Name string `json:"name"` // the gateway's, typed by a person
}

// MachineLine is one line of the machine's log.
type MachineLine struct {
	At   time.Time `json:"at"`
	Part string    `json:"part"`
	Text string    `json:"text"`
}
