package volume

import (
	"path"
	"regexp"
	"slices"
	"strings"
)

// Compiled once: settings are resolved at every publish.
var (
	enterpriseName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_-]{0,127}$`)
	enterpriseFlag = regexp.MustCompile(`^[a-z0-9][a-z0-9-]*$`)
)

const (
	// The Enterprise client in stock images.
	enterprisePath      = "/usr/bin/juicefs"
	enterpriseMountPath = "/sbin/mount.juicefs"
	// configDir is where it keeps the configuration of file systems.
	configDir = "/root/.juicefs"
	// authStage is its login at the console.
	authStage = "auth"
)

// configFile is the configuration of an Enterprise file system.
func configFile(name string) string { return path.Join(configDir, name+".conf") }

// readEnterprise reads the Secret of an Enterprise file system.
func readEnterprise(keys map[string]string, defaults Defaults, read *credentials, faults *faults) {
	read.name = keys["name"]
	switch {
	case read.name == "":
		faults.add(sourceSecret, "name", "is missing: the name of the JuiceFS file system")
	case !enterpriseName.MatchString(read.name):
		faults.add(sourceSecret, "name", "%q is not a name of a file system: letters, digits, hyphens and underscores", read.name)
	}
	readEnvs(keys, read, faults)
	readConfigs(keys, read, faults)
	read.addKeyFile(keys)
	read.mount = []string{enterpriseMountPath, read.name}
	read.quota = []string{enterprisePath, "quota", "set", read.name}
	read.options = []string{"foreground", "no-update"}
	auth := authArgv(keys, defaults, read, faults)
	if config := keys["initconfig"]; config != "" {
		// The console was asked before; the client needs no login.
		read.files = append(read.files, File{Path: configFile(read.name), Content: []byte(config), Mode: 0o600})
		return
	}
	read.stages = append(read.stages, Stage{Name: authStage, Argv: auth, Timeout: formatTimeout})
}

// authArgv is the login. The client takes its secrets as flags only: jfs-launch
// puts them in when it executes it, so that no specification holds them in an
// argument vector; see `jfs-launch expand`.
func authArgv(keys map[string]string, defaults Defaults, read *credentials, faults *faults) []string {
	argv := []string{LauncherPath, "expand", enterprisePath, "auth", read.name}
	for _, key := range []string{"access-key", "access-key2", "bucket", "bucket2", "subdir"} {
		if value := keys[key]; value != "" {
			argv = append(argv, "--"+key+"="+value)
		}
	}
	for _, key := range []string{"token", "secret-key", "secret-key2", "passphrase"} {
		value := keys[key]
		if value == "" && key != "secret-key" && key != "secret-key2" {
			continue
		}
		// Without a flag the client would ask for it.
		name := strings.ReplaceAll(key, "-", "")
		read.env[name] = value
		argv = append(argv, "--"+key+"=${"+name+"}")
	}
	if keys["encrypt_rsa_key"] != "" {
		argv = append(argv, "--rsa-key="+keyFile)
	}
	if defaults.NoUpdateConfig {
		if keys["bucket"] == "" {
			faults.add(sourceSecret, "bucket", "is missing: the installation keeps configurations as they are (JFS_NO_UPDATE_CONFIG)")
		}
		argv = append(argv, "--no-update")
	}
	argv = append(argv, authOptions(keys["format-options"], read, faults)...)
	return append(argv, "--conf-dir="+configDir)
}

// authOptions reads the comma list of further flags of `juicefs auth`; secrets
// among them become variables.
func authOptions(list string, read *credentials, faults *faults) []string {
	var flags []string
	for option := range strings.SplitSeq(list, ",") {
		option = strings.TrimLeft(strings.TrimSpace(option), "-")
		if option == "" {
			continue
		}
		key, value, hasValue := strings.Cut(option, "=")
		key, value = strings.TrimSpace(key), strings.TrimSpace(value)
		switch {
		case !enterpriseFlag.MatchString(key):
			faults.add(sourceSecret, "format-options", "holds something that is not a flag of juicefs auth")
		case !hasValue:
			flags = append(flags, "--"+key)
		case slices.Contains([]string{"token", "secret-key", "secret-key2", "passphrase", "session-token"}, key):
			name := strings.ReplaceAll(key, "-", "")
			read.env[name] = value
			flags = append(flags, "--"+key+"=${"+name+"}")
		default:
			flags = append(flags, "--"+key+"="+value)
		}
	}
	return flags
}
