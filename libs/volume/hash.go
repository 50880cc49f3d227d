package volume

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"slices"
)

// hashLength is the longest value of a label.
const hashLength = 63

// hash covers everything that makes two mounts differ, the credentials too.
// Targets, application pods and, in a shared mount, volumes are no part of it.
// It is taken before placeholders are filled and before the quota of one volume
// is added. Encoding a struct cannot fail: all its fields are plain data.
func (s *Settings) hash() string {
	canonical, err := json.Marshal(hashed{
		Edition: s.Edition, FileSystem: s.FileSystem, UniqueID: s.UniqueID,
		Stages: commands(s.Stages), Client: s.Client, Env: s.Env, Files: s.hashedFiles(),
		Kernel: s.Kernel, Pod: s.Pod,
		Protection: s.Protection, DeleteDelay: int64(s.DeleteDelay), CleanCache: s.CleanCache,
		WarmStandby: s.WarmStandby,
	})
	if err != nil {
		return ""
	}
	sum := sha256.Sum256(canonical)
	return hex.EncodeToString(sum[:])[:hashLength]
}

// hashedFiles are the files without the configuration of an Enterprise file
// system, which its console changes while mounts run.
func (s *Settings) hashedFiles() []File {
	config := configFile(s.FileSystem)
	if s.Edition != Enterprise || !slices.ContainsFunc(s.Files, func(f File) bool { return f.Path == config }) {
		return s.Files
	}
	return slices.DeleteFunc(slices.Clone(s.Files), func(f File) bool { return f.Path == config })
}

// commands are the commands of the stages alone: how long the driver waits for
// them, and what it overlooks, changes with the driver's release and makes no
// mount another one.
func commands(stages []Stage) [][]string {
	argvs := make([][]string, len(stages))
	for i, stage := range stages {
		argvs[i] = stage.Argv
	}
	return argvs
}

// hashed fixes what the hash covers and in which order; encoding/json sorts the
// keys of maps.
type hashed struct {
	Edition     Edition
	FileSystem  string
	UniqueID    string
	Stages      [][]string
	Client      []string
	Env         []EnvVar
	Files       []File
	Kernel      KernelMount
	Pod         PodShape
	Protection  Protection
	DeleteDelay int64
	CleanCache  bool
	WarmStandby bool `json:",omitempty"`
}
