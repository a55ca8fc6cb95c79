package passwd

import (
	"errors"
	"reflect"
	"testing"

	"github.com/nodeagent/nodeagent/pkg/runtime"
)

const (
	users = "root:x:0:0:root:/root:/bin/sh\n# comment:x:1:1::/:\nbroken:x:y:1::/:\napp:x:1000:1001:App:/home/app:/bin/sh\n" +
		"nohome:x:5:5:::\n1234:x:77:77::/n:\nhuge:x:4294967295:0::/:\n"
	groups = "root:x:0:root\nwheel:x:10:root,app\napp:x:1001:app\ndocker:x:999:app,other\nempty:x:50:\nbad:x:z:app\n"
)

func TestLookup(t *testing.T) {
	d := Parse([]byte(users), []byte(groups))
	for who, want := range map[string]runtime.User{
		"":            {Name: "root", Home: "/root", Groups: []uint32{10}},
		"0":           {Name: "root", Home: "/root", Groups: []uint32{10}},
		"app":         {UID: 1000, GID: 1001, Name: "app", Home: "/home/app", Groups: []uint32{10, 999}},
		"1000":        {UID: 1000, GID: 1001, Name: "app", Home: "/home/app", Groups: []uint32{10, 999}},
		"app:docker":  {UID: 1000, GID: 999, Name: "app", Home: "/home/app", Groups: []uint32{10, 1001}},
		"1000:3":      {UID: 1000, GID: 3, Name: "app", Home: "/home/app", Groups: []uint32{10, 1001, 999}},
		"65534:65534": {UID: 65534, GID: 65534, Home: "/"},
		"4242":        {UID: 4242, Home: "/"},
		"nohome":      {UID: 5, GID: 5, Name: "nohome", Home: "/"},
		// a name that consists of digits is looked up as a name first
		"1234": {UID: 77, GID: 77, Name: "1234", Home: "/n"},
		":10":  {GID: 10, Name: "root", Home: "/root", Groups: []uint32{0}},
	} {
		got, err := d.Lookup(who)
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%q: got %+v (%v), want %+v", who, got, err, want)
		}
	}
	for _, who := range []string{"nobody", "app:none", "broken", "huge", "-1", "4294967296", "comment"} {
		if got, err := d.Lookup(who); !errors.Is(err, ErrUnknown) {
			t.Errorf("%q: got %+v (%v), want ErrUnknown", who, got, err)
		}
	}
}

func FuzzLookup(f *testing.F) {
	f.Add([]byte(users), []byte(groups), "app:docker")
	f.Fuzz(func(t *testing.T, p, g []byte, who string) {
		d := Parse(p, g)
		u, err := d.Lookup(who)
		if err != nil {
			if !errors.Is(err, ErrUnknown) {
				t.Fatal(err)
			}
			return
		}
		if u.Home == "" || u.UID > 1<<31-1 || u.GID > 1<<31-1 {
			t.Fatalf("%+v", u)
		}
	})
}
