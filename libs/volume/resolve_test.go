package volume

import (
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"
)

var update = flag.Bool("update", false, "write the golden files anew")

// golden is what a case of testdata gives: settings or an error.
type golden struct {
	Error    string    `json:"error,omitempty"`
	Settings *Settings `json:"settings,omitempty"`
}

func TestResolveGolden(t *testing.T) {
	for _, path := range cases(t) {
		name := strings.TrimSuffix(filepath.Base(path), ".yaml")
		t.Run(name, func(t *testing.T) {
			in := readInputs(t, path)
			var got golden
			settings, err := Resolve(in)
			if err != nil {
				got.Error = err.Error()
			} else {
				got.Settings = &settings
			}
			compareGolden(t, strings.TrimSuffix(path, ".yaml")+".golden", got)
		})
	}
}

func cases(t *testing.T) []string {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join("testdata", "*.yaml"))
	if err != nil || len(paths) == 0 {
		t.Fatalf("find cases: %v, %d found", err, len(paths))
	}
	return paths
}

func readInputs(t *testing.T, path string) Inputs {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	in := Inputs{
		VolumeID: "pvc-5a8b2c1e-0001-4c6e-9d9c-1f2a3b4c5d6e",
		Defaults: Defaults{
			CommunityImage: "juicedata/mount:ce-v1.4.2",
			MountRoot:      "/var/lib/juicefs/volume",
			CacheDir:       "/var/jfsCache",
			ServiceAccount: "juicefs-mount",
			PriorityClass:  "system-node-critical",
		},
	}
	if err := yaml.UnmarshalStrict(text, &in); err != nil {
		t.Fatalf("read %s: %v", path, err)
	}
	return in
}

func compareGolden(t *testing.T, path string, got golden) {
	t.Helper()
	text, err := yaml.Marshal(got)
	if err != nil {
		t.Fatal(err)
	}
	if *update {
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(text)); diff != "" {
		t.Errorf("settings differ from %s (-want +got):\n%s", path, diff)
	}
}

// TestSecretsStayOut checks every case: what is secret is in the environment
// and in files only.
func TestSecretsStayOut(t *testing.T) {
	for _, path := range cases(t) {
		settings, err := Resolve(readInputs(t, path))
		text := ""
		if err != nil {
			text = err.Error()
		}
		for _, stage := range settings.Stages {
			text += strings.Join(stage.Argv, "\n")
		}
		text += strings.Join(settings.Client, "\n")
		if strings.Contains(text, "SECRET") {
			t.Errorf("%s: a secret is in an argument vector or an error: %s", path, text)
		}
	}
}

// TestInputsAreLeftAlone checks that equal inputs give equal settings however
// often they are used.
func TestInputsAreLeftAlone(t *testing.T) {
	for _, path := range cases(t) {
		in, untouched := readInputs(t, path), readInputs(t, path)
		first, _ := Resolve(in)
		first.WithMountPoint("/somewhere")
		second, _ := Resolve(in)
		if diff := cmp.Diff(first, second); diff != "" {
			t.Errorf("%s: a second call differs:\n%s", path, diff)
		}
		if diff := cmp.Diff(untouched, in); diff != "" {
			t.Errorf("%s: inputs were changed:\n%s", path, diff)
		}
	}
}

func TestFaultsAreInvalidArguments(t *testing.T) {
	in := Inputs{
		Secret:       map[string]string{"metaurl": "redis://host", "name": "Bad_Name", "trash-days": "soon"},
		MountOptions: []string{"kernel_cache"},
	}
	_, err := Resolve(in)
	if !errdefs.IsInvalidArgument(err) {
		t.Fatalf("got %v, want an invalid argument", err)
	}
	for _, part := range []string{"Secret key name: ", "Secret key trash-days: ", "mount option kernel_cache: "} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("error %q lacks %q", err, part)
		}
	}
}

func base() Inputs {
	return Inputs{
		VolumeID:     "pv-1",
		Secret:       map[string]string{"metaurl": "redis://host/1", "name": "myjfs", "storage": "s3", "bucket": "https://b"},
		Attributes:   map[string]string{},
		MountOptions: []string{"cache-size=10", "writeback"},
		Defaults:     Defaults{CommunityImage: "image", CacheDir: "/cache"},
	}
}

func TestHash(t *testing.T) {
	want := resolved(t, base()).Hash
	if len(want) != 63 {
		t.Errorf("hash %q has %d digits, want 63", want, len(want))
	}
	for name, change := range map[string]struct {
		apply func(*Inputs)
		equal bool
	}{
		"order of options": {func(in *Inputs) { in.MountOptions = []string{"writeback", "cache-size=10"} }, true},
		"form of options":  {func(in *Inputs) { in.MountOptions = []string{"writeback,cache-size=10"} }, true},
		"application":      {func(in *Inputs) { in.App.Name = "app" }, true},
		"capacity":         {func(in *Inputs) { in.Attributes["capacity"] = "1073741824" }, true},
		"secret":           {func(in *Inputs) { in.Secret["secret-key"] = "x" }, false},
		"read-only":        {func(in *Inputs) { in.ReadOnly = true }, false},
		"option":           {func(in *Inputs) { in.MountOptions = []string{"writeback"} }, false},
		"image":            {func(in *Inputs) { in.Attributes["juicefs/mount-image"] = "other" }, false},
		"volume":           {func(in *Inputs) { in.VolumeID = "pv-2" }, false},
		"subPath":          {func(in *Inputs) { in.Attributes["subPath"] = "dir" }, false},
	} {
		in := base()
		change.apply(&in)
		if got := resolved(t, in).Hash; (got == want) != change.equal {
			t.Errorf("%s: equal hashes %t, want %t", name, got == want, change.equal)
		}
	}
}

// TestHashIgnoresTheDriver checks that an upgrade of the driver that waits
// longer does not make every mount a new one.
func TestHashIgnoresTheDriver(t *testing.T) {
	settings := resolved(t, base())
	settings.Stages[0].Timeout++
	settings.Stages[0].IgnoreOutput = []string{"x"}
	if settings.hash() != settings.Hash {
		t.Error("the hash depends on time limits of stages")
	}
}

func TestSharedVolumesShareTheHash(t *testing.T) {
	shared := func(volumeID, subPath string) Settings {
		in := base()
		in.VolumeID = volumeID
		in.StorageClass = "jfs"
		in.Attributes = map[string]string{"subPath": subPath, "capacity": "5368709120"}
		in.Defaults.ShareMode = ShareByStorageClass
		in.Config = Config{MountPodPatch: []Patch{{Labels: map[string]string{"volume": "${VOLUME_ID}"}}}}
		return resolved(t, in)
	}
	a, b := shared("pv-a", "a"), shared("pv-b", "b")
	if a.Hash != b.Hash || a.UniqueID != "jfs" || b.UniqueID != "jfs" {
		t.Errorf("got %s %s and %s %s, want one mount", a.UniqueID, a.Hash, b.UniqueID, b.Hash)
	}
	if a.BindPath != "a" || b.BindPath != "b" {
		t.Errorf("bind paths are %q and %q", a.BindPath, b.BindPath)
	}
	if a.Pod.Labels["volume"] != "pv-a" {
		t.Errorf("label is %q, want the volume", a.Pod.Labels["volume"])
	}
}

func resolved(t *testing.T, in Inputs) Settings {
	t.Helper()
	settings, err := Resolve(in)
	if err != nil {
		t.Fatal(err)
	}
	return settings
}

func TestClientArgv(t *testing.T) {
	settings := resolved(t, base())
	argv := settings.ClientArgv("/var/lib/juicefs/volume/pv-1-abcdef")
	if !slices.Contains(argv, "/var/lib/juicefs/volume/pv-1-abcdef") || !slices.Contains(settings.Client, MountPoint) {
		t.Errorf("argv %q, settings %q", argv, settings.Client)
	}
}

func TestEnterpriseIsNotImplemented(t *testing.T) {
	_, err := Resolve(Inputs{Secret: map[string]string{"name": "ee", "token": "SECRET"}})
	if !errdefs.IsNotImplemented(err) {
		t.Errorf("got %v, want not implemented", err)
	}
}

func TestDirectory(t *testing.T) {
	for _, test := range []struct {
		subPath, classOptions, options, want string
	}{
		{"pvc-1", "", "", "pvc-1"},
		{"/a//b/", "", "", "a/b"},
		{"pvc-1", "subdir=/tenants/one/", "cache-size=1", "tenants/one/pvc-1"},
		{"pvc-1", "subdir=x", "ro,subdir=y", "y/pvc-1"},
		{"", "", "", ""},
	} {
		got := Directory(map[string]string{"subPath": test.subPath, "mountOptions": test.classOptions}, []string{test.options})
		if got != test.want {
			t.Errorf("%+v: got %q", test, got)
		}
	}
}

func TestSubPathCannotAddOptions(t *testing.T) {
	for _, subPath := range []string{"a,allow_root", "a\nb", "..", "a/../b", "a\x00"} {
		in := base()
		in.Attributes["subPath"] = subPath
		if _, err := Resolve(in); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%q: got %v, want an invalid argument", subPath, err)
		}
	}
}
