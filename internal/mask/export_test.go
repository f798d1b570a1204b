package mask

// Forms is forms, for the tests.
var Forms = forms
