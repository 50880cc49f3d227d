package volume

import (
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
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
			CommunityImage: "juicedata/mount:ce-v1.4.2", EnterpriseImage: "juicedata/mount:ee-5.3.2",
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
		"its scheduling":   {func(in *Inputs) { in.App.SchedulerName = "other" }, true},
		"standby":          {func(in *Inputs) { in.Attributes["csi.juicefs.com/warm-standby"] = "true" }, false},
		"user":             {func(in *Inputs) { in.Attributes["csi.juicefs.com/run-as-user"] = "1" }, false},
		"cache volume":     {func(in *Inputs) { in.Attributes["juicefs/mount-cache-pvc"] = "c" }, false},
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

// TestHashIgnoresTheApplication checks that the pods of two applications share a
// mount whose resources depend on the first.
func TestHashIgnoresTheApplication(t *testing.T) {
	config, err := ParseConfig([]byte("enableNodeSelector: true\nmountPodPatch: [{resourcePercentages: {limits: {memory: 50%}}}]"))
	if err != nil {
		t.Fatal(err)
	}
	with := func(memory, scheduler string) Settings {
		in := base()
		in.Config = config
		in.MountOptions = []string{"buffer-size=50%"}
		in.App = App{Resources: Resources{Limits: map[string]string{"memory": memory}}, SchedulerName: scheduler}
		return resolved(t, in)
	}
	small, large := with("2Gi", "a"), with("8Gi", "b")
	if small.Hash != large.Hash {
		t.Error("the hash depends on the application")
	}
	if small.Pod.Resources.Limits["memory"] != "1Gi" || large.Pod.Resources.Limits["memory"] != "4Gi" {
		t.Errorf("limits are %v and %v", small.Pod.Resources.Limits, large.Pod.Resources.Limits)
	}
	if !strings.Contains(large.Client[4], "buffer-size=2048,") || large.Pod.SchedulerName != "b" {
		t.Errorf("options %s, scheduler %s", large.Client[4], large.Pod.SchedulerName)
	}
	if plain := resolved(t, base()).Hash; plain == small.Hash {
		t.Error("the hash does not depend on the percentages")
	}
}

// TestHashCoversTheShape checks that no field of the shape is forgotten.
func TestHashCoversTheShape(t *testing.T) {
	settings := resolved(t, base())
	shape := reflect.ValueOf(&settings.Pod).Elem()
	for i := range shape.NumField() {
		was := reflect.New(shape.Field(i).Type()).Elem()
		was.Set(shape.Field(i))
		shape.Field(i).Set(filled(shape.Field(i).Type()))
		if settings.hash() == settings.Hash {
			t.Errorf("the hash does not depend on %s", shape.Type().Field(i).Name)
		}
		shape.Field(i).Set(was)
	}
	if settings.hash() != settings.Hash {
		t.Fatal("the settings were not restored")
	}
}

// filled is a value of the type that is not empty.
func filled(kind reflect.Type) reflect.Value {
	value := reflect.New(kind).Elem()
	switch kind.Kind() {
	case reflect.String:
		value.SetString("other")
	case reflect.Bool:
		value.SetBool(true)
	case reflect.Int32, reflect.Int64:
		value.SetInt(7)
	case reflect.Pointer:
		value.Set(reflect.New(kind.Elem()))
	case reflect.Slice:
		value.Set(reflect.MakeSlice(kind, 3, 3))
	case reflect.Map:
		value.Set(reflect.MakeMap(kind))
		value.SetMapIndex(filled(kind.Key()), filled(kind.Elem()))
	case reflect.Struct:
		value.Field(0).Set(filled(kind.Field(0).Type))
	default:
	}
	return value
}

func TestHashIgnoresTheConsole(t *testing.T) {
	with := func(config string) Settings {
		in := base()
		in.Secret = map[string]string{"name": "ee", "token": "t", "initconfig": config}
		return resolved(t, in)
	}
	if with("one").Hash != with("two").Hash {
		t.Error("the hash depends on what the console said")
	}
}

func TestClassic(t *testing.T) {
	for image, classic := range map[string]bool{
		"juicedata/mount:ce-v1.1.2":             true,
		"registry:5000/x/mount:ce-v1.0.4-rc1":   true,
		"juicedata/mount:ce-v0.17.5":            true,
		"juicedata/mount:ce-v1.1.2@sha256:0123": true,
		"juicedata/mount:ce-v1.2.0":             false,
		"juicedata/mount:ce-v1.10.0":            false,
		"juicedata/mount:ce-v2.0.0":             false,
		"juicedata/mount:latest":                false,
		"juicedata/mount:ce-nightly":            false,
		"registry:5000/ce-v1.0.0/mount":         false,
		"juicedata/mount@sha256:0123":           false,
		"own":                                   false,
	} {
		settings := resolved(t, base()).WithImage(image)
		if settings.Classic != classic || (settings.ClassicReason != "") != classic || settings.Pod.Image != image {
			t.Errorf("%s: classic %t, %q", image, settings.Classic, settings.ClassicReason)
		}
	}
}

func TestTemplatesAreQuoted(t *testing.T) {
	in := base()
	in.VolumeID, in.VolumeName = `a"b\`, "pv"
	in.Config = Config{MountPodPatch: []Patch{{
		Annotations:    map[string]string{"id": "<${VOLUME_ID}>", "name": "${VOLUME_NAME}"},
		ReadinessProbe: &corev1.Probe{ProbeHandler: corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"${VOLUME_ID}"}}}},
	}}}
	pod := resolved(t, in).Pod
	if pod.Annotations["id"] != "<"+in.VolumeID+">" || pod.Annotations["name"] != "pv" || pod.ReadinessProbe.Exec.Command[0] != in.VolumeID {
		t.Errorf("got %v, %v", pod.Annotations, pod.ReadinessProbe.Exec)
	}
}

func TestAppOf(t *testing.T) {
	container := func(name, volume, memory string) corev1.Container {
		return corev1.Container{
			Name: name, VolumeMounts: []corev1.VolumeMount{{Name: volume}},
			Resources: corev1.ResourceRequirements{Limits: corev1.ResourceList{"memory": resource.MustParse(memory)}},
		}
	}
	claim := corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "claim"}}
	app := AppOf(&corev1.Pod{Spec: corev1.PodSpec{
		SchedulerName: "other",
		Volumes:       []corev1.Volume{{Name: "data", VolumeSource: claim}, {Name: "scratch"}},
		Containers:    []corev1.Container{container("a", "data", "1Gi"), container("b", "data", "512Mi"), container("c", "scratch", "9Gi")},
	}}, "claim")
	if app.Resources.Limits["memory"] != "1536Mi" || len(app.Resources.Requests) != 0 || app.SchedulerName != "other" {
		t.Errorf("got %+v", app)
	}
}
