package volume

import (
	"maps"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"sigs.k8s.io/yaml"
)

// Compiled once: settings are resolved at every publish.
var (
	fileSystemName = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{1,61}[a-z0-9]$`)
	secretName     = regexp.MustCompile(`^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$`)
	formatFlag     = regexp.MustCompile(`^[a-z0-9][a-z0-9-]*$`)
)

const (
	// clientPath is the Community client in stock images; mountPath is a link
	// to it, and a client called so takes a list of options like mount(8).
	clientPath = "/usr/local/bin/juicefs"
	mountPath  = "/bin/mount.juicefs"
	// FilesDir is where files of the Secret are written in the mount pod: in
	// its emptyDir, which any uid may write.
	FilesDir = SocketDir + "/files"
	// keyFile is the private key of an encrypted file system.
	keyFile = FilesDir + "/rsa-key.pem"

	// Time limits of stages. A client that cannot reach its metadata engine
	// tries for 72 s; what it says until then is told to who waits.
	formatTimeout = 20 * time.Second
	quotaTimeout  = 20 * time.Second
)

// credentials is the publish Secret, read.
type credentials struct {
	name    string
	env     map[string]string
	files   []File
	secrets []SecretVolume
	// stages run before the client.
	stages []Stage
	// mount and quota are the beginnings of the argument vectors of the client
	// and of its quota command: program, command and file system.
	mount []string
	quota []string
	// options are options of the client that it always gets, before the others.
	options []string
}

// secretKeys are the keys with a hyphen and the aliases that old Secrets use.
func secretAliases() map[string]string {
	return map[string]string{
		"accesskey":       "access-key",
		"secretkey":       "secret-key",
		"accesskey2":      "access-key2",
		"secretkey2":      "secret-key2",
		"blocksize":       "block-size",
		"trashdays":       "trash-days",
		"formatoptions":   "format-options",
		"encryptrsakey":   "encrypt_rsa_key",
		"encrypt-rsa-key": "encrypt_rsa_key",
	}
}

// canonicalSecret is the Secret under its documented keys, without the empty
// values, which count as absent.
func canonicalSecret(secret map[string]string) map[string]string {
	aliases := secretAliases()
	keys := make(map[string]string, len(secret))
	for key, value := range secret {
		if canonical, found := aliases[key]; found && value != "" {
			keys[canonical] = value
		}
	}
	for key, value := range secret {
		if _, alias := aliases[key]; !alias && value != "" {
			keys[key] = value
		}
	}
	return keys
}

// readSecret reads the Secret.
func readSecret(in Inputs, edition Edition, faults *faults) credentials {
	keys := canonicalSecret(in.Secret)
	read := credentials{env: map[string]string{}}
	if edition == Enterprise {
		readEnterprise(keys, in.Defaults, &read, faults)
	} else {
		readCommunity(keys, &read, faults)
	}
	return read
}

// readCommunity reads the Secret of a Community file system.
func readCommunity(keys map[string]string, read *credentials, faults *faults) {
	read.name = readName(keys, faults)
	readEnvs(keys, read, faults)
	readConfigs(keys, read, faults)

	meta, err := parseMetaURL(keys["metaurl"])
	if err != nil {
		faults.add(sourceSecret, "metaurl", "%v", err)
	}
	if meta.password != "" {
		read.env["META_PASSWORD"] = meta.password
		// The client prefers this one; the address must win as it does there.
		delete(read.env, "REDIS_PASSWORD")
	}
	setIfPresent(read.env, "ACCESS_KEY", keys["access-key"])
	setIfPresent(read.env, "SECRET_KEY", keys["secret-key"])
	read.addKeyFile(keys)
	format := formatFlags(keys, read, faults)
	if reach, ok := reachStage(meta.address); ok {
		read.stages = append(read.stages, reach)
	}
	read.stages = append(read.stages, Stage{
		Name:    StageFormat,
		Argv:    slices.Concat([]string{clientPath, "format"}, format, []string{meta.address, read.name}),
		Timeout: formatTimeout,
	})
	read.mount = []string{mountPath, meta.address}
	read.quota = []string{clientPath, "quota", "set", meta.address}
}

// addKeyFile writes the key of an encrypted file system where the client finds
// it.
func (c *credentials) addKeyFile(keys map[string]string) {
	if key := keys["encrypt_rsa_key"]; key != "" {
		c.files = append(c.files, File{Path: keyFile, Content: []byte(key), Mode: 0o400})
	}
}

func setIfPresent(env map[string]string, name, value string) {
	if value != "" {
		env[name] = value
	}
}

// readName checks what `juicefs format` would refuse (cmd/format.go), so that
// nothing is started in vain.
func readName(keys map[string]string, faults *faults) string {
	name := keys["name"]
	switch {
	case name == "":
		faults.add(sourceSecret, "name", "is missing: the name of the JuiceFS file system")
	case !fileSystemName.MatchString(name):
		faults.add(sourceSecret, "name",
			"%q is not a name of a file system: 3 to 63 lower-case letters, digits and hyphens, no hyphen at the ends", name)
	}
	return name
}

// reservedEnv are variables between the mount manager and the client.
func reservedEnv() []string {
	return []string{
		"JFS_SUPERVISOR", "JFS_SUPER_COMM", "JFS_FOREGROUND",
		"_FUSE_FD_COMM", "_FUSE_STATE_PATH", "_JFS_META_SID", "__DAEMON_STAGE",
	}
}

func readEnvs(keys map[string]string, read *credentials, faults *faults) {
	text, found := keys["envs"]
	if !found {
		return
	}
	envs, err := parseStringMap(text)
	if err != nil {
		faults.add(sourceSecret, "envs", "is not a JSON or YAML map of names to values")
		return
	}
	for _, name := range slices.Sorted(maps.Keys(envs)) {
		switch {
		case name == "" || strings.ContainsAny(name, "= \x00"):
			faults.add(sourceSecret, "envs", "%q is not a name of an environment variable", name)
		case slices.Contains(reservedEnv(), name):
			faults.add(sourceSecret, "envs", "%s is set by the driver", name)
		default:
			read.env[name] = envs[name]
		}
	}
}

func readConfigs(keys map[string]string, read *credentials, faults *faults) {
	text, found := keys["configs"]
	if !found {
		return
	}
	configs, err := parseStringMap(text)
	if err != nil {
		faults.add(sourceSecret, "configs", "is not a JSON or YAML map of Secret names to paths")
		return
	}
	for _, name := range slices.Sorted(maps.Keys(configs)) {
		target := configs[name]
		if !isSecretName(name) {
			faults.add(sourceSecret, "configs", "%q is not a name of a Secret", name)
			continue
		}
		if !isCleanAbsolute(target) || target == "/" {
			faults.add(sourceSecret, "configs", "the path of Secret %s, %q, is not an absolute path without . and ..", name, target)
			continue
		}
		read.secrets = append(read.secrets, SecretVolume{Name: name, Path: target})
	}
}

func isSecretName(name string) bool {
	return len(name) <= 253 && secretName.MatchString(name)
}

// isCleanAbsolute says whether the path is absolute and holds no empty, . or ..
// element; one slash at its end is allowed.
func isCleanAbsolute(text string) bool {
	if text == "/" {
		return true
	}
	return strings.HasPrefix(text, "/") && path.Clean(text) == strings.TrimSuffix(text, "/")
}

// parseStringMap reads a JSON or YAML map; numbers and booleans become the text
// that was written.
func parseStringMap(text string) (map[string]string, error) {
	var values map[string]any
	keepNumbers := func(d *jsonDecoder) *jsonDecoder { d.UseNumber(); return d }
	if err := yaml.Unmarshal([]byte(text), &values, keepNumbers); err != nil {
		return nil, err
	}
	result := make(map[string]string, len(values))
	for key, value := range values {
		written, err := scalarText(value)
		if err != nil {
			return nil, err
		}
		result[key] = written
	}
	return result, nil
}

// formatFlags are the flags of `juicefs format` that are no secrets. Secrets
// among them go into read.env, where the client looks for them when it creates
// a file system.
func formatFlags(keys map[string]string, read *credentials, faults *faults) []string {
	var flags []string
	if keys["storage"] == "" || keys["bucket"] == "" {
		// The Secret does not say all, so it must not change what exists.
		flags = append(flags, "--no-update")
	}
	for _, key := range []string{"storage", "bucket", "block-size", "compress", "trash-days", "capacity", "inodes", "shards"} {
		value := strings.TrimSpace(keys[key])
		if value == "" {
			continue
		}
		checkFormatValue(key, value, faults)
		flags = append(flags, "--"+key+"="+value)
	}
	if keys["encrypt_rsa_key"] != "" {
		flags = append(flags, "--encrypt-rsa-key="+keyFile)
	}
	return append(flags, formatOptions(keys["format-options"], read, faults)...)
}

func checkFormatValue(key, value string, faults *faults) {
	switch key {
	case "trash-days", "inodes", "shards":
		if _, err := strconv.ParseUint(value, 10, 63); err != nil {
			faults.add(sourceSecret, key, "%q is not a whole number of at least 0", value)
		}
	case "compress":
		if !slices.Contains([]string{"lz4", "zstd", "none"}, strings.ToLower(value)) {
			faults.add(sourceSecret, key, "%q is none of lz4, zstd, none", value)
		}
	}
}

// formatOptions reads the comma list of further flags of `juicefs format`.
func formatOptions(list string, read *credentials, faults *faults) []string {
	var flags []string
	for option := range strings.SplitSeq(list, ",") {
		option = strings.TrimLeft(strings.TrimSpace(option), "-")
		if option == "" {
			continue
		}
		key, value, hasValue := strings.Cut(option, "=")
		key = strings.TrimSpace(key)
		if !formatFlag.MatchString(key) {
			faults.add(sourceSecret, "format-options", "holds something that is not a flag of juicefs format")
			continue
		}
		switch {
		case key == "session-token":
			read.env["SESSION_TOKEN"] = value
		case key == "access-key":
			read.env["ACCESS_KEY"] = value
		case key == "secret-key":
			read.env["SECRET_KEY"] = value
		case hasValue:
			flags = append(flags, "--"+key+"="+strings.TrimSpace(value))
		default:
			flags = append(flags, "--"+key)
		}
	}
	return flags
}
