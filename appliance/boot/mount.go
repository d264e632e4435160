package boot

// Mount mounts what every part of the machine expects (proc, sysfs, devices, /run, /tmp,
// cgroups, and what is of use where the kernel has it), and makes the directories below
// /run. What is mounted already is left alone. It is called before anything else; an error
// means that the machine cannot go on.
func (c Config) Mount() error { return nil }

// SealRoot makes the root file system read-only and tries that it is: a file that can
// still be made there is an error. Mount points must be there before.
func (c Config) SealRoot() error { return nil }

// WithEFIVariables mounts the firmware's variables for writing while do runs, at the
// directory that it is given. They are mounted read-only before and after.
func (c Config) WithEFIVariables(do func(dir string) error) error { return nil }
